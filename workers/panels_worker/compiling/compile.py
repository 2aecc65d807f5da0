"""The disposable child that checks and compiles one handler: ``python -m panels_worker.compiling.compile
engine``, or ``… handler MODE UID GID`` (how it locks itself in, and whom it becomes; -1 for nobody else).

Compiling is an attack surface of its own: 70 kB of WebAssembly can take 15 s and 1.8 GB. So it happens here,
in a process that serves nobody, sets its limits before it looks at its input, and locks itself in before it
looks at the handler. Whatever happens to it, the pool only sees that it has ended.

stdin is one MessagePack array ``[language, entry, source, engines]``, stdout one ``["artifact", kind,
payload]`` or ``["refusal", code, message, line, column]``. Both are files, so that neither side ever waits
for the other. ``engines`` maps names to descriptors of compiled modules that the pool has authenticated:
scripts are checked in them. The language ``engine`` compiles one of those modules, which ``entry`` names; it
comes from an installed package, not from a client, so it may take its time. That is said on the command line,
because limits come before input.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgpack

from panels_shared.handlers import MAX_COMPOSING_BYTES, MAX_WASM_BYTES, max_source_bytes
from panels_shared.limits import MIB
from panels_shared.messages import Language, Refusal
from panels_worker.confinement.compile_child import lock_in
from panels_worker.settings import CONFINEMENT_MODES

#: Limits of the process. Compiling 2 MiB from an ordinary toolchain takes 2 s and 150 MB.
CPU_S: Final = 5
ENGINE_CPU_S: Final = 120
DATA_BYTES: Final = 512 * MIB
OUTPUT_BYTES: Final = 80 * MIB
MAX_REQUEST_BYTES: Final = MAX_WASM_BYTES + 65_536


def main() -> None:
    """Reads, compiles, writes, ends."""
    is_engine = sys.argv[1:] == ["engine"]
    limit(ENGINE_CPU_S if is_engine else CPU_S)
    request = sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1)
    language, entry, source, engines = msgpack.unpackb(request, max_bin_len=MAX_REQUEST_BYTES)
    if is_engine != (language == "engine"):
        raise SystemExit(2)
    if not is_engine:
        mode, uid, gid = sys.argv[2:5]
        prepare(language)
        lock_in(CONFINEMENT_MODES[mode], int(uid), int(gid))
    sys.stdout.buffer.write(msgpack.packb(answer(language, entry, source, engines)))
    sys.stdout.buffer.flush()
    os._exit(0)  # nothing here needs a tidy exit


def prepare(language: Language) -> None:
    """Imports what the language needs: later nothing can be opened."""
    for name in ("wasmtime", "panels_worker.compiling.preflight", "panels_worker.guest.engine"):
        importlib.import_module(name)
    if language in ("javascript", "typescript"):
        importlib.import_module("panels_worker.javascript")


def limit(cpu_s: int) -> None:
    """Bounds this process; what it has opened stays open."""
    for what, limit in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_DATA, DATA_BYTES),
        (resource.RLIMIT_FSIZE, OUTPUT_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, (limit, limit))


def answer(
    language: Language | Literal["engine"], entry: str, source: bytes, engines: Mapping[str, int]
) -> list[Any]:
    """What stdout gets for a handler."""
    if language == "engine":
        return _engine(entry)
    if len(source) > max_source_bytes(language) + MAX_COMPOSING_BYTES:
        text = f"expected at most {max_source_bytes(language)} bytes of {language}, got {len(source)}"
        return _refused(Refusal("too_large", text))
    if language in ("javascript", "typescript"):
        from panels_worker import javascript

        script = javascript.prepare(
            language, entry, source, {name: _read(fd) for name, fd in engines.items()}
        )
        return _refused(script) if isinstance(script, Refusal) else ["artifact", 2, script]
    module = _assemble(source) if language == "wat" else source
    return _refused(module) if isinstance(module, Refusal) else _compile(module, entry)


def _engine(name: str) -> list[Any]:
    from panels_worker.guest.engine import make_engine
    from panels_worker.javascript.engines import compile_engine

    return ["artifact", 1, compile_engine(name, make_engine())]


def _read(descriptor: int) -> bytes:
    # pread: the descriptor's position is shared with other children
    return os.pread(descriptor, OUTPUT_BYTES, 0)


def _assemble(source: bytes) -> bytes | Refusal:
    import wasmtime

    try:
        return bytes(wasmtime.wat2wasm(source.decode()))
    except UnicodeDecodeError:
        return Refusal("malformed", "expected WebAssembly text in UTF-8")
    except wasmtime.WasmtimeError as exc:
        return _located(str(exc))


def _compile(module: bytes, entry: str) -> list[Any]:
    import wasmtime

    from panels_worker.compiling.preflight import preflight
    from panels_worker.guest.engine import make_engine

    refusal = preflight(module, entry)
    if refusal is not None:
        return _refused(refusal)
    try:
        return ["artifact", 1, bytes(wasmtime.Module(make_engine(), module).serialize())]
    except wasmtime.WasmtimeError as exc:
        # the reasons of the validator are about the module alone; the first line is the one that says them
        return _refused(Refusal("malformed", _first_cause(str(exc))))


def _first_cause(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Caused by")]
    return f"expected a valid module: {' '.join(lines)}"[:500]


def _located(text: str) -> Refusal:
    """A refusal from the assembler's words, which name a line and column as ``<anon>:line:column``."""
    message = text.splitlines()[0].strip() if text else "it does not assemble"
    line = column = 0
    for word in text.split():
        parts = word.split(":")
        if len(parts) == 3 and parts[0] == "<anon>" and parts[1].isdigit() and parts[2].isdigit():
            line, column = int(parts[1]), int(parts[2])
            break
    return Refusal("syntax", f"expected WebAssembly text: {message}"[:500], line, column)


def _refused(refusal: Refusal) -> list[Any]:
    return ["refusal", refusal.code, refusal.message, refusal.line, refusal.column]


if __name__ == "__main__":
    main()
