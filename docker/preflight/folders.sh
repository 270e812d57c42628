#!/bin/sh
# The volumes of services that run under numbers of their own belong to those numbers.
set -eu
chown -R 1000:1000 /volumes/s3
chown -R 999:999 /volumes/redis
