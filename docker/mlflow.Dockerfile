# MLflow's server: runs, versions, and the artifacts that it hands out from S3.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
WORKDIR /build
COPY bootstrap.lock ./
RUN python3 -m venv tools && tools/bin/pip install --quiet --no-cache-dir --require-hashes -r bootstrap.lock
COPY requirements-mlflow.lock ./
RUN python3 -m venv --without-pip /opt/venv \
    && tools/bin/uv pip sync --quiet --no-cache --compile-bytecode --require-hashes --python /opt/venv/bin/python requirements-mlflow.lock

FROM ${BASE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/mlflow dermanet
COPY --from=build /opt/venv /opt/venv
COPY docker/mlflow /opt/dermanet/mlflow
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib \
    MLFLOW_DISABLE_TELEMETRY=true
USER 10001:10001
WORKDIR /tmp
EXPOSE 5000
CMD ["sh", "/opt/dermanet/mlflow/serve.sh"]
