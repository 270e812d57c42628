#!/bin/sh
# Run once, when the server's folder is empty: a database and a user of its own for Airflow, MLflow and the catalogue; and a user for
# the scorer, who may log predictions in the catalogue's (docker/airflow/setup.py grants that when the tables are there).
set -eu

as_owner() {
    psql --quiet -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres
}

# Names and passwords come by the environment: words of a command could be seen by others.
user() {
    NAME=$1 PASSWORD=$2 as_owner <<'SQL'
\getenv name NAME
\getenv password PASSWORD
CREATE ROLE :"name" LOGIN PASSWORD :'password';
SQL
}

database() {
    user "$1" "$2"
    NAME=$1 as_owner <<'SQL'
\getenv name NAME
CREATE DATABASE :"name" OWNER :"name" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8';
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
}

database airflow "$AIRFLOW_DB_PASSWORD"
database mlflow "$MLFLOW_DB_PASSWORD"
database catalogue "$CATALOGUE_DB_PASSWORD"
user scorer "$SCORER_DB_PASSWORD"
echo 'GRANT CONNECT ON DATABASE catalogue TO scorer' | as_owner
