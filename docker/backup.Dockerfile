# The command line of the Airflow image, and PostgreSQL's own programs for dumps, of the server's version.
ARG BASE=dermanet-airflow
FROM ${BASE}
USER 0:0
# Debian serves the newest patch of a release alone: a pinned one would be gone in weeks.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-client-15 \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001
ENTRYPOINT ["python", "-m", "dermanet"]
