#!/bin/sh
# Trains the named built-in models that the repository holds no version of, or with --anew all of
# them: train-once.sh [--anew] NAME...
# The repository holds a file `.training` from before the first is trained until all are published.
set -eu
: "${MODELPORT_MODELS:=models}" "${PYTHON:=python}"
export MODELPORT_MODELS

is_published() {
    [ -n "$(cd "$MODELPORT_MODELS/$1" 2>/dev/null && find . -mindepth 2 -maxdepth 2 -type f \
        -path './[1-9]*/manifest.json' ! -path './*[!0-9]*/manifest.json' -print -quit)" ]
}

anew=no
if [ "${1:-}" = --anew ]; then
    anew=yes
    shift
fi
for name in "$@"; do
    if [ "$anew" = no ] && is_published "$name"; then
        echo "$name: already published"
    else
        mkdir -p "$MODELPORT_MODELS"
        : >"$MODELPORT_MODELS/.training"
        "$PYTHON" -m training run "$name"
    fi
done
rm -f "$MODELPORT_MODELS/.training"
