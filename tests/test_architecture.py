"""Imports run one way, in the source and in the running processes: gateway → shared ← workers."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GATEWAY = ROOT / "gateway" / "panels_gateway"
WORKER = ROOT / "workers" / "panels_worker"
SHARED = ROOT / "shared" / "panels_shared"
CLI = ROOT / "cli" / "panels_cli"

RULES = {
    CLI: {
        "panels_gateway", "panels_worker", "wasmtime", "quickjs_rs", "zmq", "apsw", "starlette", "uvicorn",
    },
    GATEWAY: {"panels_worker", "panels_cli", "typer", "wasmtime", "quickjs_rs"},
    WORKER: {
        "panels_gateway", "panels_cli", "typer", "starlette", "uvicorn", "jwt", "httpx", "websockets",
        "httptools",
    },
    SHARED: {
        "panels_gateway", "panels_worker", "panels_cli", "asyncio", "zmq", "socket", "select", "ssl", "subprocess",
        "threading",
        "multiprocessing", "wasmtime", "uvloop", "starlette", "uvicorn", "jwt", "httpx", "websockets",
    },
}  # fmt: skip


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import in a file, also of those within functions."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: expected an absolute import"
            yield node.lineno, str(node.module).partition(".")[0]


@pytest.mark.parametrize("package", RULES, ids=lambda path: path.name)
def test_package_imports_nothing_that_is_not_its_own(package: Path) -> None:
    files = sorted(package.rglob("*.py"))
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imports_of(path)
        if name in RULES[package]
    ]

    assert files
    assert wrong == []


def test_extension_process_alone_of_the_gateway_s_makes_a_filter_of_system_calls() -> None:
    users = [
        path for path in GATEWAY.rglob("*.py") if any(name == "pyseccomp" for _, name in imports_of(path))
    ]
    assert users == [GATEWAY / "extensions" / "confinement.py"]


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("panels_cli.__main__", CLI),
        ("panels_gateway.__main__", GATEWAY),
        ("panels_worker.pool.pool", WORKER),
        ("panels_worker.sandbox.process", WORKER),
        ("panels_worker.compiling.compile", WORKER),
        ("panels_shared.wire", SHARED),
    ],
)
def test_process_loads_nothing_that_is_not_its_own(module: str, package: Path) -> None:
    """What a dependency drags in counts too: a secret's library in a sandbox is one
    import away from a secret.
    """
    script = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)

    assert run.returncode == 0, run.stderr
    # what only some library of ours loads for itself is no matter of the one-way rule
    allowed = {SHARED: {"socket", "select", "ssl", "subprocess", "threading", "asyncio"}}.get(package, set())
    # the gateway's own process makes no filter of system calls; its extension process does
    more = {"pyseccomp"} if package is GATEWAY else set()
    assert set(run.stdout.split()) & ((RULES[package] | more) - allowed) == set()


def test_shared_vocabulary_is_imported_by_both_sides() -> None:
    for package in (GATEWAY, WORKER):
        names = {name for path in package.rglob("*.py") for _, name in imports_of(path)}
        assert "panels_shared" in names


def test_page_names_modules_and_functions_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    packages = [GATEWAY, WORKER]
    names = set(re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", page))
    missing = [name for name in names if not any((package / name).is_file() for package in packages)]
    for name, attribute in re.findall(r"`([a-z_]+/[a-z_/]+\.py)`, `(?:[A-Z]\w+\.)?(\w+)`", page):
        texts = [(package / name).read_text() for package in packages if (package / name).is_file()]
        if not any(f"def {attribute}(" in text for text in texts):
            missing.append(f"{name}: {attribute}")
    assert missing == []


def test_page_has_a_line_for_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [path.parent.name for package in (GATEWAY, WORKER) for path in package.glob("*/__init__.py")]
    rows = "\n".join(re.findall(r"^\| \d \|.*$", page, re.MULTILINE))
    assert [room for room in rooms if f"`{room}`" not in rows] == []
