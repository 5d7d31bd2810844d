# syntax=docker/dockerfile:1
# The serving image has neither a compiler nor torch:        docker build -t lazyneuron .
# The exporting one adds torch and transformers on the CPU:  docker build -t lazyneuron-export --target export .
# The one for NVIDIA's GPUs, with CUDA and cuDNN as wheels:   docker build -t lazyneuron-gpu --target gpu .

FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY engine engine
COPY exporters exporters
COPY server server
COPY lazyneuron lazyneuron
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm AS export
COPY constraints.txt /tmp/
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --constraint /tmp/constraints.txt "$(echo /wheels/lazyneuron-*.whl)[export]" \
    && useradd --create-home lazyneuron
USER lazyneuron
WORKDIR /work
ENTRYPOINT ["lazyneuron"]

FROM python:3.11-slim-bookworm AS gpu
COPY constraints.txt /tmp/
# Both of ONNX Runtime's wheels bring one folder: the CPU's is taken out, and the other laid down again.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --constraint /tmp/constraints.txt "$(echo /wheels/lazyneuron-*.whl)[gpu,image,sign,tracing]" \
    && pip uninstall --yes onnxruntime \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt --force-reinstall --no-deps onnxruntime-gpu \
    && useradd --system --no-create-home --uid 10001 lazyneuron
# For NVIDIA's container runtime, which brings the driver's libraries; and no silent serving from the CPU without it.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility LAZYNEURON_DEVICE=cuda:0
USER 10001
EXPOSE 8001 8002
VOLUME /models
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8002/healthz', timeout=2)"]
ENTRYPOINT ["lazyneuron", "serve", "/models", "--host", "0.0.0.0"]

FROM python:3.11-slim-bookworm AS serve
COPY constraints.txt /tmp/
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --constraint /tmp/constraints.txt "$(echo /wheels/lazyneuron-*.whl)[image,sign,tracing]" \
    && useradd --system --no-create-home --uid 10001 lazyneuron
USER 10001
EXPOSE 8001 8002
VOLUME /models
# The orchestrator stops it with SIGTERM: admitted requests finish, then it exits 0.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8002/healthz', timeout=2)"]
ENTRYPOINT ["lazyneuron", "serve", "/models", "--host", "0.0.0.0"]
