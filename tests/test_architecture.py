"""Which module may import which, and who may look at the environment."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in ("app", "training")
    for path in (ROOT / package).rglob("*.py")
)
#: Who may import what, beside what is below it: api -> engine -> bundle, and ops from both.
LAYERS = {
    "app/errors.py": (),
    "app/__init__.py": (),
    "app/bundle/": ("app.bundle", "app.errors"),
    "app/program.py": (),
    "app/engine/": ("app", "app.engine", "app.bundle", "app.errors", "app.program"),
    "app/ops/": ("app.ops", "app.bundle", "app.errors"),
    "app/settings.py": ("app.errors",),
    "app/api/": (
        "app",
        "app.api",
        "app.engine",
        "app.bundle",
        "app.ops",
        "app.errors",
        "app.settings",
    ),
    "training/": ("training", "app.bundle"),
}
#: Packages that only some files may import.
CONFINED = {
    "onnxruntime": (
        "app/engine/session.py",
        "app/engine/providers/installed.py",
        "training/export/runtime.py",
        "training/export/quantize.py",
    ),
    "fastapi": ("app/main.py", "app/server.py", "app/__main__.py", "app/api/"),
    "fastapi_offline": ("app/main.py",),
    "starlette": ("app/main.py", "app/server.py", "app/__main__.py", "app/api/"),
    "uvicorn": ("app/main.py", "app/server.py", "app/__main__.py", "app/api/"),
    "prometheus_client": ("app/ops/metrics.py",),
    "pydantic_settings": ("app/settings.py",),
    "torch": ("training/",),
    "onnx": ("training/",),
    "onnxscript": ("training/",),
    "training": ("training/",),
}
ENVIRONMENT = ("app/settings.py", "app/__init__.py", "training/__init__.py", "training/__main__.py")


def imported(path: str) -> Iterator[str]:
    """Full names of every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            yield node.module
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if (ROOT / name.replace(".", "/")).with_suffix(".py").exists():
                    yield name


def is_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_the_rules_see_the_code() -> None:
    assert len(MODULES) > 40
    assert "onnxruntime" in set(imported("app/engine/session.py"))
    assert {"app.bundle.store"} <= set(imported("app/engine/model.py"))


@pytest.mark.parametrize("path", MODULES)
def test_a_module_imports_only_from_below(path: str) -> None:
    for place, allowed in LAYERS.items():
        if path == place or (place.endswith("/") and path.startswith(place)):
            for name in imported(path):
                if name.partition(".")[0] in ("app", "training"):
                    # `from app import __version__` is no layer.
                    assert name in allowed or is_in(
                        name, tuple(a for a in allowed if a != "app")
                    ), f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES)
def test_some_packages_stay_where_they_belong(path: str) -> None:
    for name in imported(path):
        places = CONFINED.get(name.partition(".")[0])
        if places is not None:
            assert path.startswith(places), f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES)
def test_only_settings_look_at_the_environment(path: str) -> None:
    if path in ENVIRONMENT:
        return
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("environ", "environb", "getenv", "putenv"), path
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            assert not {alias.name for alias in node.names} & {"environ", "getenv"}, path


@pytest.mark.parametrize("path", [m for m in MODULES if m.startswith("app/")])
def test_no_model_file_is_unpickled_and_no_code_is_made_from_text(path: str) -> None:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile", "__import__"), path
    assert not {n.partition(".")[0] for n in imported(path)} & {
        "pickle",
        "marshal",
        "shelve",
        "dill",
    }


def test_every_module_says_what_it_is() -> None:
    for path in MODULES:
        assert ast.get_docstring(ast.parse((ROOT / path).read_text())), path
