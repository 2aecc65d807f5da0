"""Imports run one way: gateway → shared ← workers. Shown on the sources, and on what each command really loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGES: Final = {
    "panels_gateway": ROOT / "gateway" / "panels_gateway",
    "panels_worker": ROOT / "workers" / "panels_worker",
    "panels_shared": ROOT / "shared" / "panels_shared",
}
#: Who must not import what, nor anything below it.
FORBIDDEN: Final = {
    "panels_gateway": {"panels_worker", "wasmtime", "quickjs_rs"},
    "panels_worker": {"panels_gateway", "starlette", "uvicorn", "jwt", "httpx", "websockets"},
    "panels_shared": {
        "panels_gateway", "panels_worker", "asyncio", "multiprocessing", "selectors", "socket", "ssl", "subprocess",
        "threading", "wasmtime", "quickjs_rs", "zmq", "starlette", "uvicorn", "uvloop", "httpx", "websockets",
    },
}  # fmt: skip
#: The modules that are started by command line.
COMMANDS: Final = {
    "panels_gateway": ["panels_gateway.__main__"],
    "panels_worker": ["panels_worker.__main__", "panels_worker.sandbox_process", "panels_worker.compile"],
}


def imported_names(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Every module that ``source`` imports, at any depth of it, by its full name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                kept = parents[: len(parents) - node.level + is_package]
                base = ".".join([*kept, base] if base else kept)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_forbidden(package: str, name: str) -> bool:
    return any(name == banned or name.startswith(f"{banned}.") for banned in FORBIDDEN[package])


def violations(package: str, folder: Path) -> list[str]:
    found: list[str] = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        names = imported_names(path.read_text(), module, is_package=is_package)
        found.extend(
            f"{path.relative_to(ROOT)} imports {name}" for name in names if is_forbidden(package, name)
        )
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_only_what_it_may(package: str) -> None:
    assert violations(package, PACKAGES[package]) == []


@pytest.mark.parametrize(
    "line",
    [
        "import wasmtime",
        "from wasmtime import Engine",
        "import wasmtime.loader as x",
        "def f():\n    from panels_worker import task",
    ],
)
def test_forbidden_import_is_found_wherever_it_stands(line: str) -> None:
    names = list(imported_names(f"import json\n{line}\n", "panels_gateway.x", is_package=False))

    assert any(is_forbidden("panels_gateway", name) for name in names)


@pytest.mark.parametrize(
    ("line", "is_package", "named"),
    [
        ("from . import b", False, "p.q.b"),
        ("from ..r import c", False, "p.r.c"),
        ("from . import b", True, "p.q.a.b"),
    ],
)
def test_relative_import_is_named_in_full(line: str, is_package: bool, named: str) -> None:
    assert named in list(imported_names(line, "p.q.a", is_package=is_package))


@pytest.mark.parametrize(
    ("package", "module"), [(p, module) for p, modules in COMMANDS.items() for module in modules]
)
def test_process_loads_nothing_of_the_other_side(package: str, module: str) -> None:
    """What the libraries load themselves counts as well: a worker must not hold a web server or a token library."""
    program = f"import sys, {module}; print('\\n'.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50
    )

    assert {name.split(".")[0] for name in loaded.stdout.split()} & FORBIDDEN[package] == set()


def test_nothing_of_a_folder_is_imported_by_the_folders_name() -> None:
    """``gateway/`` and ``workers/`` are where packages lie, not packages."""
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            names = imported_names(path.read_text(), package, is_package=False)
            assert not {name.split(".")[0] for name in names} & {"gateway", "workers", "shared"}, path
