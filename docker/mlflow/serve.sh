#!/bin/sh
# MLflow's server behind its own log-in: runs and versions in PostgreSQL, artifacts in S3 and through this server alone.
set -eu
umask 077
cat > /tmp/basic_auth.ini <<INI
[mlflow]
default_permission = READ
database_uri = $MLFLOW_AUTH_DATABASE
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# A password is checked by a slow hash on purpose; a workflow asks hundreds of times a minute.
auth_cache_ttl_seconds = 60
INI
export MLFLOW_AUTH_CONFIG_PATH=/tmp/basic_auth.ini
exec mlflow server --host 0.0.0.0 --port 5000 --workers "${MLFLOW_WORKERS:-2}" --app-name basic-auth \
    --artifacts-destination "s3://mlflow" --allowed-hosts "$MLFLOW_HOSTS" \
    --uvicorn-opts "--no-access-log"
