#!/bin/sh
# Writes constraints.txt: installs everything fresh, without the old constraints, and notes the versions.
# lock.sh PYTHON
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PIP_CONSTRAINT
"$1" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --editable '.[train,dev]'
{
    echo '# Exact versions of everything that is installed, made by `make lock`. Ranges are in pyproject.toml.'
    # The build of torch (+cpu, +cu…) is the user's choice, its version is not.
    "$folder/venv/bin/python" -m pip freeze --exclude-editable --all |
        sed -E 's/\+(cpu|cu[0-9]+)$//' | grep -v '^pip=='
} >constraints.txt
