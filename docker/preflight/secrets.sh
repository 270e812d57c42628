#!/bin/sh
# Every secret that the example asks for must be set, and not be the example's: the stack does not start with less. Those that stand in
# addresses of databases and in files of services must hold nothing that means something else there.
set -eu

trouble() {
    sed -n 's/^\([A-Z0-9_]*\)=change-me$/\1/p' "$1" | while read -r name; do
        value=$(printenv "$name" || true)
        case $name:$value in
            *:) echo "$name (missing)" ;;
            *:change-me*) echo "$name (still the example's)" ;;
            *_DB_PASSWORD:*[!A-Za-z0-9._~+=-]* | REDIS_PASSWORD:*[!A-Za-z0-9._~+=-]* | S3_*:*[!A-Za-z0-9._~+=-]*)
                echo "$name (only letters, digits and . _ ~ + = - may stand there)" ;;
            *:????????????????*) ;;
            *) echo "$name (shorter than 16 characters)" ;;
        esac
    done
}

found=$(trouble "$1")
if [ -n "$found" ]; then
    echo "dermanet: not to be started with these secrets in .env: $(echo "$found" | tr '\n' ';') empty their lines and run: make secrets" >&2
    exit 2
fi
