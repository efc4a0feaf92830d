#!/bin/sh
# Succeeds where a model repository holds anything to serve: has-models.sh DIR
[ -n "$(find "$1" -mindepth 3 -maxdepth 3 \( -name manifest.json -o -name '*.onnx' \) -print -quit 2>/dev/null)" ]
