# Images of the worker and of the operator, and of a small model server for the tests:
#
#   docker build --target worker -t annotationrun-worker .
#   docker build --target operator -t annotationrun-operator .
#   docker build --target demo-vlm -t annotationrun-demo-vlm .
#
# Behind a proxy that inspects HTTPS: --build-arg SSL_CERT_FILE=<path of its CA bundle inside the build>, with
# the bundle mounted there. Nothing of it stays in the images.
# A release says what it is, and pins its base by digest (`docker buildx imagetools inspect debian:trixie-slim`):
#
#   --build-arg VERSION=0.1.0 --build-arg REVISION=$(git rev-parse HEAD) --build-arg BASE=debian:trixie-slim@sha256:...
#
# What of others lies in an image, with versions, is listed in its /usr/share/doc/annotationrun, licences beside; a
# bill of materials comes of `docker buildx build --sbom=true`.
# All run as user 65532, on a read-only root file system too if /tmp can be written.

# What apt and pip download lies in caches of the build, not in the images, so that no stage downloads again what
# another has. They need BuildKit (Docker's default) or buildah. apt's packages are in a folder of another name than
# usual, as Debian's image empties that one after each installation. Its lists are in the same cache, as buildah 1.28
# waits for ever where a second stage locks two.

ARG BASE=debian:trixie-slim

FROM ${BASE} AS python
RUN --mount=type=cache,id=annotationrun-apt,target=/var/cache/apt,sharing=locked \
    mkdir -p /var/cache/apt/lists/partial \
 && get="apt-get -q -o Dir::State::Lists=/var/cache/apt/lists -o Dir::Cache::Archives=/var/cache/apt/packages" \
 && $get update \
 && $get install -y --no-install-recommends python3 ca-certificates

FROM python AS build
RUN --mount=type=cache,id=annotationrun-apt,target=/var/cache/apt,sharing=locked \
    mkdir -p /var/cache/apt/lists/partial \
 && get="apt-get -q -o Dir::State::Lists=/var/cache/apt/lists -o Dir::Cache::Archives=/var/cache/apt/packages" \
 && $get update \
 && $get install -y --no-install-recommends python3-venv python3-hatchling
# Debian's hatchling is seen.
RUN python3 -m venv --system-site-packages /opt/annotationrun
WORKDIR /source

# Requirements apart from the code: a changed module installs nothing again. The lock files hold all there is
# to install, so nothing is resolved (--no-deps).
FROM build AS operator-requirements
ARG SSL_CERT_FILE
COPY operator/requirements.txt ./
RUN --mount=type=cache,id=annotationrun-pip,target=/root/.cache/pip \
    /opt/annotationrun/bin/pip install --no-deps --require-hashes -r requirements.txt \
 && /opt/annotationrun/bin/pip uninstall -q -y pip

FROM build AS worker-requirements
ARG SSL_CERT_FILE
COPY worker/requirements.txt ./
RUN --mount=type=cache,id=annotationrun-pip,target=/root/.cache/pip \
    /opt/annotationrun/bin/pip install --no-deps --require-hashes -r requirements.txt \
 && /opt/annotationrun/bin/pip uninstall -q -y pip

FROM build AS code
COPY pyproject.toml README.md LICENSE ./
COPY crds/annotationrun_api crds/annotationrun_api
COPY operator/annotationrun_operator operator/annotationrun_operator
COPY worker/annotationrun_worker worker/annotationrun_worker
# Called by the venv's path, so that the script `annotationrun` starts the venv's Python; the rest of the
# venv is left out of what is copied.
RUN /opt/annotationrun/bin/pip install --no-index --no-deps --no-build-isolation --prefix /installed .

FROM python AS operator
RUN groupadd --gid 65532 annotationrun \
 && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin annotationrun
COPY --from=operator-requirements /opt/annotationrun /opt/annotationrun
RUN mkdir -p /usr/share/doc/annotationrun \
 && dpkg-query --show > /usr/share/doc/annotationrun/debian-packages \
 && basename -a -s .dist-info /opt/annotationrun/lib/python3*/site-packages/*.dist-info \
  > /usr/share/doc/annotationrun/python-packages
COPY LICENSE /usr/share/doc/annotationrun/
COPY --from=code /installed /opt/annotationrun
ENV PATH=/opt/annotationrun/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="annotationrun operator" \
      org.opencontainers.image.description="Fans annotation runs of LeRobot datasets out to worker pods." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION
USER 65532:65532
ENTRYPOINT ["python", "-m", "annotationrun_operator"]

FROM python AS worker
RUN --mount=type=cache,id=annotationrun-apt,target=/var/cache/apt,sharing=locked \
    mkdir -p /var/cache/apt/lists/partial \
 && get="apt-get -q -o Dir::State::Lists=/var/cache/apt/lists -o Dir::Cache::Archives=/var/cache/apt/packages" \
 && $get update \
 && $get install -y --no-install-recommends ffmpeg \
 && groupadd --gid 65532 annotationrun \
 && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin annotationrun
COPY --from=worker-requirements /opt/annotationrun /opt/annotationrun
RUN mkdir -p /usr/share/doc/annotationrun \
 && dpkg-query --show > /usr/share/doc/annotationrun/debian-packages \
 && basename -a -s .dist-info /opt/annotationrun/lib/python3*/site-packages/*.dist-info \
  > /usr/share/doc/annotationrun/python-packages
COPY LICENSE worker/NOTICE /usr/share/doc/annotationrun/
COPY --from=code /installed /opt/annotationrun
ENV PATH=/opt/annotationrun/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="annotationrun worker" \
      org.opencontainers.image.description="Annotates LeRobot datasets with a vision-language model." \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-2.0-or-later" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION
USER 65532:65532
ENTRYPOINT ["annotationrun"]

# It takes the arguments of `vllm serve`, so that it can stand in for the image of vLLM.
FROM worker AS demo-vlm
LABEL org.opencontainers.image.title="annotationrun demo-vlm" \
      org.opencontainers.image.description="A small model server for demos and tests: it takes vLLM's arguments."
USER root
RUN printf '#!/bin/sh\nexec python -m annotationrun_worker.demo.vllm "$@"\n' > /usr/local/bin/vllm \
 && chmod 755 /usr/local/bin/vllm
USER 65532:65532
ENTRYPOINT ["vllm", "serve"]
