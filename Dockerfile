# The program with ONNX Runtime, without Python, as an unprivileged user:
#
#   docker build -t flowgauge .
#   docker run --rm -v "$PWD:/work" flowgauge doctor
#
# With CUDA (and `--provider cuda`, `docker run --gpus all`):
#
#   docker build -t flowgauge:cuda --build-arg RUNTIME=onnxruntime-gpu \
#       --build-arg BASE=nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04 .
ARG BASE=debian:12-slim

FROM rust:1.95-slim-bookworm AS program
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --release --locked --bin flowgauge && strip target/release/flowgauge

# The library of ONNX Runtime, of the version that the program is tested with.
FROM python:3.12-slim-bookworm AS library
ARG RUNTIME=onnxruntime
ARG RUNTIME_VERSION=1.31.1
RUN pip install --no-cache-dir --no-deps --target /packages "${RUNTIME}==${RUNTIME_VERSION}" \
    && mkdir /libraries && cp /packages/onnxruntime/capi/libonnxruntime* /libraries/

FROM ${BASE}
COPY --from=library /libraries/ /usr/local/lib/
COPY --from=program /source/target/release/flowgauge /usr/local/bin/flowgauge
# Certificates, with which object stores and the Hub prove who they are.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 flowgauge || true
USER 1000
WORKDIR /work
ENTRYPOINT ["flowgauge"]
CMD ["--help"]
