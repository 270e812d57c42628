# Airflow's services, its workers and the command line: everything but MLflow's server and the scorer.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
WORKDIR /build
COPY bootstrap.lock ./
RUN python3 -m venv tools && tools/bin/pip install --quiet --no-cache-dir --require-hashes -r bootstrap.lock
COPY requirements-stack.lock ./
RUN python3 -m venv --without-pip /opt/venv \
    && tools/bin/uv pip sync --quiet --no-cache --compile-bytecode --require-hashes --python /opt/venv/bin/python requirements-stack.lock
COPY pyproject.toml README.md LICENSE ./
COPY dermanet dermanet
RUN tools/bin/python -m pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir wheel .

FROM ${BASE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/airflow dermanet \
    && install -d -o dermanet -g dermanet -m 750 /var/lib/airflow /var/lib/dermanet /var/log/airflow
COPY --from=build /opt/venv /opt/venv
COPY --from=build /build/wheel /tmp/wheel
RUN python3 -m pip --python /opt/venv/bin/python install --quiet --no-cache-dir --no-deps --no-index /tmp/wheel/*.whl
COPY dags /opt/dermanet/dags
COPY docker/airflow /opt/dermanet/airflow
ARG REVISION=
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TF_CPP_MIN_LOG_LEVEL=3 MPLCONFIGDIR=/tmp/matplotlib \
    AIRFLOW_HOME=/var/lib/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/dermanet/dags \
    AIRFLOW__LOGGING__BASE_LOG_FOLDER=/var/log/airflow \
    DERMANET_HOME=/var/lib/dermanet \
    DERMANET_REVISION=${REVISION} \
    MLFLOW_DISABLE_TELEMETRY=true
USER 10001:10001
WORKDIR /var/lib/airflow
CMD ["airflow", "version"]
