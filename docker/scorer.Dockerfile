# The scorer: ONNX Runtime and MLflow's scoring application, without TensorFlow, Airflow and MLflow's server.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
WORKDIR /build
COPY bootstrap.lock ./
RUN python3 -m venv tools && tools/bin/pip install --quiet --no-cache-dir --require-hashes -r bootstrap.lock
COPY requirements-scorer.lock ./
RUN python3 -m venv --without-pip /opt/venv \
    && tools/bin/uv pip sync --quiet --no-cache --compile-bytecode --require-hashes --python /opt/venv/bin/python requirements-scorer.lock
COPY pyproject.toml README.md LICENSE ./
COPY dermanet dermanet
RUN tools/bin/python -m pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir wheel .

FROM ${BASE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/dermanet dermanet \
    && install -d -o dermanet -g dermanet -m 750 /var/lib/dermanet
COPY --from=build /opt/venv /opt/venv
COPY --from=build /build/wheel /tmp/wheel
RUN python3 -m pip --python /opt/venv/bin/python install --quiet --no-cache-dir --no-deps --no-index /tmp/wheel/*.whl
ARG REVISION=
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    DERMANET_HOME=/var/lib/dermanet \
    DERMANET_REVISION=${REVISION} \
    MLFLOW_DISABLE_TELEMETRY=true
USER 10001:10001
WORKDIR /var/lib/dermanet
EXPOSE 8000
ENTRYPOINT ["dermanet"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
