#!/bin/sh
# Every secret that the example asks for must be set, and not be the example's: the stack does not start with less.
set -eu

trouble() {
    sed -n 's/^\([A-Z0-9_]*\)=change-me$/\1/p' "$1" | while read -r name; do
        value=$(printenv "$name" || true)
        case $value in
            '') echo "$name (missing)" ;;
            change-me*) echo "$name (still the example's)" ;;
            ????????????????*) ;;
            *) echo "$name (shorter than 16 characters)" ;;
        esac
    done
}

found=$(trouble "$1")
if [ -n "$found" ]; then
    echo "dermanet: not to be started with these secrets in .env: $(echo "$found" | tr '\n' ';') run: make secrets" >&2
    exit 2
fi
