#!/bin/sh
# Succeeds where a model repository holds a published version: has-models.sh DIR
CDPATH='' cd -- "$1" 2>/dev/null || exit 1
[ -n "$(find . -mindepth 3 -maxdepth 3 -type f -path './[!.]*/[1-9]*/manifest.json' \
    ! -path './*/*[!0-9]*/manifest.json' -print -quit 2>/dev/null)" ]
