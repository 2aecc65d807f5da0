"""A child that compiles and runs modules, with the limits of the real compile child. It may die; the caller
lives.

    python -m tests.fuzz.compiling      stdin: length (4 bytes), module, ...    stdout: length, MessagePack,
    ...

The real child compiles one module and ends. This one takes ``MODULES`` and ends then, because its CPU is
limited as that one's is; whoever dies with a module of its own time is asked once more, in a fresh child.
"""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from typing import Any, Final

import msgpack

from panels_shared.messages import Refusal
from tests.fuzz.target import Violation, refused, require

#: Modules that one child compiles.
MODULES: Final = 200
_LENGTH: Final = struct.Struct("<I")


class Compiler:
    """Asks a child, and starts another one when it has ended."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._done = 0

    def compile(self, module: bytes) -> Refusal | str:
        """What the child says of ``module``: why not, or how it ran. Raises ``Violation``."""
        answer = self._ask(module)
        if isinstance(answer, int):
            # its time may have been used up by others
            answer = self._ask(module)
        if isinstance(answer, int):
            if -answer in (signal.SIGXCPU, signal.SIGKILL):
                return "too costly"
            raise Violation(f"the compile child ends by itself\n{answer}")
        kind, *rest = answer
        if kind == "refusal":
            return Refusal(*rest)
        (word,) = rest
        require(not word.startswith("!"), "a compiled module runs soundly", word)
        return refused(AssertionError(word))

    def _ask(self, module: bytes) -> list[Any] | int:
        """The answer, or the exit code of a child that had none."""
        child = self._child
        if child is None or self._done >= MODULES:
            self.close()
            command = [sys.executable, "-m", "tests.fuzz.compiling"]
            child = self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._done = 0
        assert child.stdin is not None
        assert child.stdout is not None
        self._done += 1
        try:
            child.stdin.write(_LENGTH.pack(len(module)) + module)
            child.stdin.flush()
            head = child.stdout.read(_LENGTH.size)
        except BrokenPipeError:
            head = b""
        if len(head) < _LENGTH.size:
            code = child.wait()
            self._forget()
            return code
        answer: list[Any] = msgpack.unpackb(child.stdout.read(*_LENGTH.unpack(head)))
        return answer

    def close(self) -> None:
        """Ends the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._forget()

    def _forget(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


def main() -> None:
    """Reads, compiles, runs, writes, until stdin ends."""
    from panels_worker.compiling import compile as child

    child.limit(child.CPU_S)
    while len(head := sys.stdin.buffer.read(_LENGTH.size)) == _LENGTH.size:
        module = sys.stdin.buffer.read(*_LENGTH.unpack(head))
        answer = child.answer("wasm", "handle", module, {})
        if answer[0] == "artifact":
            answer = ["ran", _run(answer[2])]
        packed = msgpack.packb(answer)
        sys.stdout.buffer.write(_LENGTH.pack(len(packed)) + packed)
        sys.stdout.buffer.flush()


def _run(artifact: bytes) -> str:
    """How a compiled module ends as a handler, twice; with a "!" in front where it is not sound."""
    import wasmtime

    from panels_shared.outcome import Completed, Failed
    from panels_worker.guest.wasm import WasmProgram
    from tests.workers.builders import ENGINE, HOST, make_task

    limits = {"fuel": 200_000, "memory_bytes": 1 << 22}
    program = WasmProgram(HOST, wasmtime.Module.deserialize(ENGINE, artifact), "handle")
    task = make_task(args=b'{"x":[1,2,3]}', state={"count": b"1"}, limits=limits)
    first, again = program.run(task), program.run(task)
    if type(first.outcome) is not type(again.outcome) or first.changes != again.changes:
        return f"! {type(first.outcome).__name__} and then {type(again.outcome).__name__}"
    outcome = first.outcome
    if isinstance(outcome, Failed):
        return f"{outcome.reason.value} {outcome.message[:60]}"
    return "completed" if isinstance(outcome, Completed) else "suspended"


if __name__ == "__main__":
    main()
