#!/bin/sh
# Writes the files of a deployment to DIRECTORY, with images of a registry instead of those that a checkout builds.
#   deploy/name-images.sh ghcr.io/OWNER VERSION DIRECTORY
set -eu
registry=$(printf %s "$1" | tr '[:upper:]' '[:lower:]')
version=$2
directory=$3
cd "$(dirname "$0")/.."
mkdir -p "$directory/deploy"
for file in docker-compose.yml .env.example deploy/unraid-template.xml; do
  sed "s|stash-sense-pipeline:[0-9][0-9.]*|$registry/stash-sense-pipeline:$version|g" "$file" > "$directory/$file"
done
cp deploy/engine-proxy.cfg "$directory/deploy/"
# There is nothing to build from beside these files.
sed -i '/^  build:$/,/^    target: /d' "$directory/docker-compose.yml"
