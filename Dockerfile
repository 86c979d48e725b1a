# The daemon and the command line in one image. Built from a Debian with Python 3.11 or newer:
#   docker build --build-arg BASE=debian:13-slim -t wasm-sandboxer .
#   docker run --rm -v "$PWD/examples/wasm:/modules:ro" wasm-sandboxer run /modules/hello.wasm
ARG BASE=debian:13-slim

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY requirements/build.txt requirements/runtime.txt /build/requirements/
RUN python3 -m venv /opt/wasm-sandboxer \
    && /opt/wasm-sandboxer/bin/pip install --no-cache-dir --require-hashes \
        -r /build/requirements/build.txt -r /build/requirements/runtime.txt
COPY pyproject.toml README.md LICENSE /build/
COPY data /build/data
COPY src /build/src
RUN /opt/wasm-sandboxer/bin/pip install --no-cache-dir --no-deps --no-build-isolation /build

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/wasm-sandboxer /opt/wasm-sandboxer
ENV PATH=/opt/wasm-sandboxer/bin:$PATH
ENTRYPOINT ["wasm-sandboxer"]
CMD ["--help"]
