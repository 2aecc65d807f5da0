"""The guest that ``quickjs-rs`` ships is the one that this host was written for."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from importlib.metadata import requires, version

import pytest
import wasmtime

from panels_worker.javascript.engines import QUICKJS, TRANSFORM, GuestChangedError, engine_source
from panels_worker.javascript.surface import EXPORTS, IMPORTS, check_guest
from tests.workers.builders import ENGINE

#: SHA-256 of the modules in ``quickjs-rs`` 0.2.6, with which everything else here was tested.
KNOWN_GUESTS = {
    QUICKJS: "647ab11ae29cc6d39a6d17d3aa1e7a6a0b5fb9c44b4864475a18bc644f926050",
    TRANSFORM: "c4710d5258585122a70f0b3ee3bc19d085742e6f94f48aa0b8057630ebaca745",
}
WHAT_TO_DO = (
    "a new release changed it. Let scripts/test pass but for this test, make docs/language-features.md and "
    "docs/ecmascript.md anew as they say, read what changed in both, and only then put the new digest here "
    "and the new version into pyproject.toml and deploy/requirements.txt"
)
TRANSFORM_EXPORTS = {
    "qjst_alloc": ("i", "i"),
    "qjst_error_len": ("", "i"),
    "qjst_error_ptr": ("", "i"),
    "qjst_result_len": ("", "i"),
    "qjst_result_ptr": ("", "i"),
    "qjst_transform": ("iiiii", "i"),
}


def unknown(name: str, digest: str) -> str | None:
    """What to tell whoever runs the tests with a module of this digest; None for the known one."""
    if digest == KNOWN_GUESTS[name]:
        return None
    return f"expected the {name} module of quickjs-rs 0.2.6, got {digest} from {version('quickjs-rs')}: {WHAT_TO_DO}"


@pytest.mark.parametrize("name", [QUICKJS, TRANSFORM])
def test_guest_is_the_one_that_was_tested(name: str) -> None:
    problem = unknown(name, hashlib.sha256(engine_source(name)).hexdigest())
    assert problem is None, problem


def test_another_guest_is_told_in_words() -> None:
    changed = hashlib.sha256(engine_source(QUICKJS) + b"\0").hexdigest()
    problem = unknown(QUICKJS, changed)
    assert problem is not None
    assert changed in problem
    assert "a new release changed it" in problem


def test_package_admits_no_other_release() -> None:
    # the metadata of the installed package; its specifiers come in no certain order
    (wanted,) = [line for line in requires("panels-kernel") or () if line.startswith("quickjs-rs")]
    assert sorted(wanted.removeprefix("quickjs-rs").split(",")) == ["<0.2.7", ">=0.2.6"]


def test_transform_exports_what_the_host_calls() -> None:
    found = {item.name: item.type for item in wasmtime.Module(ENGINE, engine_source(TRANSFORM)).exports}
    assert isinstance(found["memory"], wasmtime.MemoryType)
    for name, (parameters, results) in TRANSFORM_EXPORTS.items():
        kind = found.get(name)
        assert isinstance(kind, wasmtime.FuncType), name
        assert [str(value) for value in kind.params] == ["i32"] * len(parameters), name
        assert [str(value) for value in kind.results] == ["i32"] * len(results), name


# -- check_guest, which the worker itself asks at every start ----------------------------------------------


def test_known_guest_is_accepted() -> None:
    check_guest(wasmtime.Module(ENGINE, engine_source(QUICKJS)))
    check_guest(lookalike())


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_guest_without_an_export_is_refused_by_its_name(name: str) -> None:
    exports = {other: kind for other, kind in EXPORTS.items() if other != name}
    with pytest.raises(GuestChangedError, match=f"expected the guest of quickjs-rs to export {name} as"):
        check_guest(lookalike(exports=exports))


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_guest_whose_export_takes_one_more_is_refused_by_its_name(name: str) -> None:
    parameters, results = EXPORTS[name]
    exports = {**EXPORTS, name: (parameters + "i", results)}
    with pytest.raises(
        GuestChangedError, match=rf"export {name} as .*, got \('{parameters}i', '{results}'\)"
    ):
        check_guest(lookalike(exports=exports))


@pytest.mark.parametrize("kind", ["I", "f", "F"])
def test_guest_whose_handles_are_wider_is_refused(kind: str) -> None:
    with pytest.raises(GuestChangedError, match="export new_string as"):
        check_guest(lookalike(exports={**EXPORTS, "new_string": ("i" + kind, "i")}))


@pytest.mark.parametrize("name", ["memory", "__stack_pointer"])
def test_guest_without_its_memory_or_stack_pointer_is_refused(name: str) -> None:
    rest = {"memory", "__stack_pointer"} - {name}
    with pytest.raises(GuestChangedError, match=f"to export {name}, got no such export"):
        check_guest(lookalike(others=rest))


@pytest.mark.parametrize(
    "imported",
    [
        '(import "env" "host_clock" (func (result i32)))',
        '(import "env" "host_call" (func (param i32) (result i32)))',
        '(import "wasi_snapshot_preview1" "sock_open" (func))',
        '(import "other" "host_call" (func (param i32 i32 i32 i32 i32) (result i32)))',
    ],
)
def test_guest_that_wants_more_of_the_host_is_refused(imported: str) -> None:
    module, name = imported.split('"')[1:4:2]
    with pytest.raises(GuestChangedError, match=f"expected no import {module}.{name} "):
        check_guest(lookalike(imported=imported))


_TYPES = {"i": "i32", "I": "i64", "f": "f32", "F": "f64"}


def lookalike(
    *,
    exports: dict[str, tuple[str, str]] = EXPORTS,
    others: Collection[str] = ("memory", "__stack_pointer"),
    imported: str = "",
) -> wasmtime.Module:
    """A module that has the guest's surface and does nothing."""
    lines = [imported]
    if not imported:
        lines += [f'(import "env" "{name}" (func {_written(*kind)}))' for name, kind in IMPORTS.items()]
    lines.append("(memory 1) (global $pointer (mut i32) (i32.const 0))")
    if "memory" in others:
        lines.append('(export "memory" (memory 0))')
    if "__stack_pointer" in others:
        lines.append('(export "__stack_pointer" (global $pointer))')
    lines += [f'(func (export "{name}") {_written(*kind)} unreachable)' for name, kind in exports.items()]
    return wasmtime.Module(ENGINE, f"(module {' '.join(lines)})")


def _written(parameters: str, results: str) -> str:
    written = " ".join(f"(param {_TYPES[letter]})" for letter in parameters)
    return f"{written} " + " ".join(f"(result {_TYPES[letter]})" for letter in results)
