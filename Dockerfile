# One image for the code server, the webserver, the daemon and every run, so that they never differ in version.
# `docker compose up` builds it. By hand:
#   docker build -t stash-sense-pipeline:0.1.0 --target cpu .
#   docker build -t stash-sense-pipeline:0.1.0-gpu --target gpu .     with the CUDA runtime that locks/image-gpu.txt pins
# BASE_IMAGE: any Debian or Ubuntu with python3 3.11 or newer and its venv module. The digest pins the
# image of the tag: `docker pull` refuses another one.
ARG BASE_IMAGE=python:3.11.11-slim-bookworm@sha256:081075da77b2b55c23c088251026fb69a7b2bf92471e491ff5fd75c192fd38e5

# --- system: a user, directories, nothing else: no package of the distribution is needed
FROM ${BASE_IMAGE} AS system
ENV PATH=/opt/venv/bin:/opt/code/bin:$PATH \
    PYTHONPATH=/opt/code \
    PYTHONUNBUFFERED=1 \
    DATA_DIR=/data \
    STASH_SENSE_SOURCES=/data/sources.yaml
RUN groupadd --gid 1000 stash \
 && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /data --shell /usr/sbin/nologin stash \
 && install -d -o stash -g stash /data /password
USER stash
WORKDIR /data
VOLUME /data
EXPOSE 3000
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --timeout=10s --start-period=90s --retries=4 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 3000, timeout=8); c.request('GET', '/server_info'); exit(c.getresponse().status >= 500)"]
# Whatever is started in here, Dagster's own programs too, makes files for its user only.
ENTRYPOINT ["/bin/sh", "-c", "umask 077 && exec \"$@\"", "sh"]
# UI, daemon and runs in one container, with SQLite; docker-compose.yml starts them apart, on PostgreSQL.
CMD ["stash-sense", "serve", "--host", "0.0.0.0"]

# --- builder: makes environments, and stays out of the images
FROM ${BASE_IMAGE} AS builder
ENV VIRTUAL_ENV=/opt/venv UV_LINK_MODE=copy UV_NO_CACHE=1
WORKDIR /src
COPY locks/uv.txt ./
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --quiet --require-hashes -r uv.txt \
 && python3 -m venv --without-pip /opt/venv

# --- dependencies, locked with hashes: this layer changes with its lock file only
FROM builder AS cpu-dependencies
COPY locks/image-cpu.txt ./
RUN /opt/uv/bin/uv pip sync --quiet --require-hashes image-cpu.txt \
 && find /opt/venv -type d -name tests -path '*-packages/*' -prune -exec rm -rf {} + \
 && python3 -m compileall -q -j 0 /opt/venv

# --- code: one wheel, made with the locked build tool
FROM builder AS code
COPY pyproject.toml README.md LICENSE sources.yaml dagster.yaml workspace.yaml ./
COPY locks/cpu.txt ./locks/
COPY stash_sense_pipeline ./stash_sense_pipeline
RUN /opt/uv/bin/uv build --quiet --wheel --build-constraints locks/cpu.txt --require-hashes -o dist \
 && /opt/uv/bin/uv pip install --quiet --no-deps --compile-bytecode --target /opt/code dist/*.whl

FROM system AS cpu
COPY --from=cpu-dependencies /opt/venv /opt/venv
COPY --from=code /opt/code /opt/code
COPY deploy/dagster.yaml deploy/workspace.yaml /opt/dagster/

FROM builder AS gpu-dependencies
COPY locks/image-gpu.txt ./
RUN /opt/uv/bin/uv pip sync --quiet --require-hashes image-gpu.txt \
 && find /opt/venv -type d -name tests -path '*-packages/*' -prune -exec rm -rf {} + \
 && python3 -m compileall -q -j 0 /opt/venv

# CUDA and cuDNN are locked packages like the rest, so any base serves; the driver comes from the host. Which GPU a
# container sees is set when the container starts: by NVIDIA_VISIBLE_DEVICES in here, every one would see them all.
FROM system AS gpu
ENV STASH_SENSE_DEVICE=cuda NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=gpu-dependencies /opt/venv /opt/venv
COPY --from=code /opt/code /opt/code
COPY deploy/dagster.yaml deploy/workspace.yaml /opt/dagster/

# The same image under the name of its STASH_SENSE_DEVICE, by which docker-compose.yml chooses.
FROM gpu AS cuda

# What a build without --target makes.
FROM cpu
