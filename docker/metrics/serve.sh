#!/bin/sh
# Prometheus, with the token that the scorer's /metrics asks for in a file of this container's memory.
set -eu
umask 077
printf '%s' "$SCORER_METRICS_TOKEN" > /tmp/scorer-token
exec /bin/prometheus --config.file=/etc/prometheus/prometheus.yml --storage.tsdb.path=/prometheus \
    --storage.tsdb.retention.time=30d --storage.tsdb.retention.size=2GB
