#!/bin/sh
# Writes the lock files anew with uv: the program, its tools and tests, for a machine without and with an NVIDIA GPU. They hold versions and hashes, and no index address, so that any mirror serves them.
set -eu
cd "$(dirname "$0")/.."
compile() { out=$1; shift; uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header "$@" pyproject.toml -o "locks/$out"; }
compile cpu.txt --extra cpu --group dev
compile gpu.txt --extra gpu --group dev
# What `make setup` and the Dockerfile install first: uv itself, by its hash.
echo uv | uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -c locks/cpu.txt - -o locks/uv.txt
# What the container image installs: the same versions without tools and tests.
compile image-cpu.txt --extra cpu --extra k8s -c locks/cpu.txt
compile image-gpu.txt --extra gpu --extra k8s -c locks/gpu.txt
