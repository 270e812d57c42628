#!/bin/sh
# SeaweedFS on one machine, asked by S3 alone: its other doors, which know no log-in, stay on loopback.
set -eu
umask 077
cat > /tmp/s3.json <<JSON
{"identities": [
  {"name": "owner",   "credentials": [{"accessKey": "owner",   "secretKey": "$S3_OWNER_SECRET"}],   "actions": ["Admin"]},
  {"name": "airflow", "credentials": [{"accessKey": "airflow", "secretKey": "$S3_AIRFLOW_SECRET"}],
   "actions": ["Read:images", "Write:images", "List:images", "Tagging:images", "Read:inbox", "Write:inbox", "List:inbox"]},
  {"name": "mlflow",  "credentials": [{"accessKey": "mlflow",  "secretKey": "$S3_MLFLOW_SECRET"}],
   "actions": ["Read:mlflow", "Write:mlflow", "List:mlflow", "Tagging:mlflow"]},
  {"name": "scorer",  "credentials": [{"accessKey": "scorer",  "secretKey": "$S3_SCORER_SECRET"}],
   "actions": ["Read:mlflow", "List:mlflow"]}
]}
JSON
exec weed server -dir=/data -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3 -s3.ip.bind=0.0.0.0 -s3.config=/tmp/s3.json \
    -s3.port.iceberg=0 -s3.port.lance=0 -master.telemetry=false -master.raftHashicorp -master.electionTimeout=1s \
    -master.volumeSizeLimitMB=1024 -volume.max=0
