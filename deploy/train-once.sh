#!/bin/sh
# Trains the named built-in models that the repository holds no version of: train-once.sh NAME...
set -eu
: "${MODELPORT_MODELS:=models}"
export MODELPORT_MODELS
for name in "$@"; do
    if [ -n "$(find "$MODELPORT_MODELS/$name" -mindepth 2 -maxdepth 2 -name manifest.json \
        -not -path '*/.*' -print -quit 2>/dev/null)" ]; then
        echo "$name: already published"
    else
        python -m training run "$name"
    fi
done
