"""A sandbox alone: what a sandbox process runs jobs with, in this process, without sockets
and without confinement.

Programs, replicas, effects and the frame are the real ones. What is missing beside a real process: the
sockets, the second thread, which advances the engine's epoch every 10 ms, and whatever confinement costs.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, Final

import msgspec
import wasmtime

from panels_shared.handlers import DEFAULT_CAPABILITIES
from panels_shared.limits import DEFAULT_LIMITS
from panels_shared.messages import Job, Language, Result, Snapshot, Tool, ToWorker
from panels_shared.outcome import Completed
from panels_shared.wire import decode_to_worker, encode
from panels_worker.guest.abi import WasmHost
from panels_worker.guest.engine import make_engine
from panels_worker.guest.task import Program
from panels_worker.guest.wasm import WasmProgram
from panels_worker.javascript import prepare
from panels_worker.javascript.engines import QUICKJS, compile_engine
from panels_worker.javascript.guest import JavaScriptGuest
from panels_worker.javascript.program import JavaScriptProgram
from panels_worker.javascript.script import decode
from panels_worker.sandbox.replica import Replicas
from panels_worker.sandbox.sandbox import Sandbox

LIMITS: Final = (
    DEFAULT_LIMITS.fuel,
    DEFAULT_LIMITS.deadline_ms,
    DEFAULT_LIMITS.memory_bytes,
    DEFAULT_LIMITS.host_calls,
    DEFAULT_LIMITS.output_bytes,
    DEFAULT_LIMITS.events,
    DEFAULT_LIMITS.log_bytes,
)


class Engines:
    """The engine of this process, and programs in it.

    One for all sandboxes of a run, as the rule of ``engine`` wants.
    """

    def __init__(self) -> None:
        self.engine = make_engine()
        self._host = WasmHost(self.engine)
        self._quickjs = b""
        self._guest: JavaScriptGuest | None = None

    def wasm(self, source: str) -> WasmProgram:
        """A module in text form as a program."""
        return WasmProgram(self._host, wasmtime.Module(self.engine, source), "handle")

    def javascript(self, source: str, language: Language = "javascript") -> JavaScriptProgram:
        """A script as a program. The first one compiles QuickJS: a second or two."""
        if self._guest is None:
            self._quickjs = compile_engine(QUICKJS, self.engine)
            self._guest = JavaScriptGuest.load(self.engine, self._quickjs)
        payload = prepare(language, "", source.encode(), {QUICKJS: self._quickjs})
        if not isinstance(payload, bytes):
            raise ValueError(f"expected a handler that compiles: {payload.message}")
        return JavaScriptProgram(self._guest, decode(payload))


class LoneSandbox:
    """A sandbox with one tool, and ``panels`` panels that begin with ``state``.

    Jobs go to the panels in turn.
    """

    def __init__(self, program: Program, state: dict[str, Any], *, panels: int = 16) -> None:
        self._sandbox = Sandbox(_Loader(program), replicas=Replicas())
        self._indices = [0] * panels
        self._jobs = 0
        self._last: Any = None
        encoded = {key: msgspec.json.encode(value) for key, value in state.items()}
        tool = Tool(1, b"d" * 32, "wasm", "handle", "increment", LIMITS, DEFAULT_CAPABILITIES)
        self._take([tool, *(Snapshot(panel, 1, dict(encoded)) for panel in range(panels))])

    def run(self, count: int) -> None:
        """Runs ``count`` jobs: no frames, only the sandbox and its programs. The last answer is checked."""
        sandbox, jobs = self._sandbox, self._make(count)
        queue, run_next = sandbox.queue, sandbox.run_next
        answer: Any = None
        for job in jobs:
            queue.append(job)
            answer = run_next()
        self._check(answer)

    def exchange(self, count: int, *, in_frame: int) -> None:
        """Runs ``count`` jobs as the loop of a process does: frames of ``in_frame`` jobs are
        decoded, and results encoded.

        What making the jobs' frames costs is in it, and said by ``make_frames``.
        """
        answers: list[Any] = []
        for start in range(0, count, in_frame):
            answers = self._take(decode_to_worker(encode(self._make(min(in_frame, count - start)))))
            encode(answers)
        self._check(answers[-1])

    def checked(self) -> LoneSandbox:
        """Itself, when jobs succeed and each sees what the one before it did. Raises ``RuntimeError``."""
        panels = len(self._indices)
        self.run(panels)
        first = self._last
        self.run(2 * panels)
        if self._last != first + 2:
            raise RuntimeError(f"expected a count of {first + 2}, got {self._last}")
        return self

    def _make(self, count: int) -> list[ToWorker]:
        indices = self._indices
        made: list[ToWorker] = []
        for number in range(self._jobs, self._jobs + count):
            panel = number % len(indices)
            index = indices[panel]
            # under load about a window of a panel's jobs is not committed yet
            made.append(
                Job(number, panel, 1, index, index - 4, 1, b"{}", b"{}", 1.7e12, number * 0x9E37_79B9)
            )
            indices[panel] += 1
        self._jobs += count
        return made

    def _take(self, messages: list[ToWorker]) -> list[Any]:
        sandbox = self._sandbox
        sandbox.accept(messages)
        answers = []
        while sandbox.queue:
            answer = sandbox.run_next()
            if answer is not None:
                answers.append(answer)
        return answers

    def _check(self, answer: object) -> None:
        if not isinstance(answer, Result) or not isinstance(answer.outcome, Completed):
            raise RuntimeError(f"expected a job that completes, got {answer}")
        self._last = msgspec.json.decode(answer.outcome.return_value)


class _Loader:
    def __init__(self, program: Program) -> None:
        self._program = program

    def load(self, tool: Tool) -> Program | None:
        return self._program


def settle() -> None:
    """Sets the garbage collector up as a sandbox process does once it is ready."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def exchanging(sandbox: LoneSandbox, in_frame: int) -> Callable[[int], None]:
    """A subject for ``rounds.measure``."""
    return lambda count: sandbox.exchange(count, in_frame=in_frame)
