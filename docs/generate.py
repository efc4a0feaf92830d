"""Writes the documents that are made from code: the settings table and the manifest's schema.

python docs/generate.py          write them
python docs/generate.py --check  fail where one is out of date
"""

import json
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from app.bundle.manifest import Manifest
from app.settings import PREFIX, Settings

DOCS: Final = Path(__file__).parent

SETTINGS_HEAD: Final = """\
# Settings

Every setting of the service is an environment variable. An unknown `MODELPORT_*` name or a value
out of range stops the service at once with one line that says so. An empty value counts as unset.
`python -m app serve` takes `--host`, `--port`, `--models` and `--workers` as well; they win over
the environment.

| variable | default | takes | meaning |
|---|---|---|---|
"""

SETTINGS_TAIL: Final = """
Of the Makefile, not of the service: `MODELPORT_TORCH_INDEX`, the address of PyTorch's CPU wheel
index, for Linux machines without a GPU.
"""


def settings_page() -> str:
    rows = [_row(name, field) for name, field in Settings.model_fields.items()]
    return SETTINGS_HEAD + "".join(rows) + SETTINGS_TAIL


def _row(name: str, field: Any) -> str:
    default = field.default
    if default is None or default in ((), {}):
        shown = "unset"
    elif isinstance(default, tuple):
        shown = f"`{','.join(default)}`"
    else:
        shown = f"`{str(default).lower() if isinstance(default, bool) else default}`"
    return f"| `{PREFIX}{name.upper()}` | {shown} | {_takes(field)} | {field.description} |\n"


def _takes(field: Any) -> str:
    bounds = [
        f"{sign} {value:,}"
        for item in field.metadata
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"))
        if (value := getattr(item, attribute, None)) is not None
    ]
    return ", ".join([_type_word(field.annotation), *bounds])


def _type_word(annotation: Any) -> str:
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{word}`" for word in typing.get_args(annotation))
    if origin is tuple:
        return "names by comma"
    if origin is Mapping:
        return "JSON object"
    words: Mapping[Any, str] = {
        int: "whole number",
        float: "number",
        bool: "`true` or `false`",
        str: "text",
        Path: "path",
        SecretStr: "text, 16 characters or more",
    }
    return words[annotation]


def manifest_schema() -> str:
    return json.dumps(Manifest.model_json_schema(), indent=2) + "\n"


def documents() -> dict[Path, str]:
    return {
        DOCS / "settings.md": settings_page(),
        DOCS / "manifest.schema.json": manifest_schema(),
    }


def main() -> int:
    check = sys.argv[1:] == ["--check"]
    stale = []
    for path, text in documents().items():
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        print(f"out of date: {', '.join(stale)}; run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
