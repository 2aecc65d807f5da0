"""Which calls are open, pure: events and the time in, instructions out.

    waiting ──(slot free, process ready)──▶ running ──(Returned)──▶ answered
       │                                       ├──(deadline)──────▶ answered: timeout, and Cancel
       ├──(waited too long)──▶ answered: overloaded or unavailable
       ├──(cancel)────────────▶ answered: cancelled ◀──(cancel)── running, and Cancel
       └──(given up)──────────▶ answered: unavailable    running ──(process lost)──▶ answered: lost

Every call that ``open`` took is answered exactly once; what the process says about a call that is not
running is ignored, so that a late or forged answer changes nothing. A call that waits has not been sent,
and so outlives the process. Slots go to the panels in turn, to each panel's calls in order, skipping those
whose method has no slot.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from panels_gateway.extensions.errors import CallError, DuplicateCallError, ErrorCode
from panels_gateway.extensions.messages import (
    MAX_ARGUMENTS_BYTES,
    MAX_NAME_CHARS,
    Call,
    CallId,
    Cancel,
    MethodInfo,
    Returned,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """Bounds on open calls; security limits.

    - ``running``, ``running_per_panel``: calls in the process at once. More wait.
    - ``waiting``, ``waiting_per_panel``: calls that wait. More are answered at once with overloaded.
    - ``wait_s``: how long a call may wait.
    - ``grace_s``: how long after a method's time-out the process may still say so itself.
    """

    running: int = 64
    running_per_panel: int = 16
    waiting: int = 4_096
    waiting_per_panel: int = 256
    wait_s: float = 30.0
    grace_s: float = 1.0

    def __post_init__(self) -> None:
        if min(self.running, self.running_per_panel) < 1 or min(self.waiting, self.waiting_per_panel) < 0:
            raise ValueError("expected limits of at least 1 for running and 0 for waiting calls")
        if self.wait_s <= 0 or self.grace_s < 0:
            raise ValueError("expected wait_s above 0 and grace_s of at least 0")


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to the process."""

    message: Call | Cancel


@dataclass(frozen=True, slots=True)
class Answer:
    """Hand an answer to the kernel."""

    returned: Returned


Instruction: TypeAlias = Send | Answer
Key: TypeAlias = tuple[str, str]
K = TypeVar("K")


@dataclass(slots=True)
class _Open:
    call: Call
    deadline_s: float
    running: bool = False

    @property
    def key(self) -> Key:
        return self.call.extension, self.call.method


@dataclass(slots=True)
class Calls:
    """The open calls of one extension process and its successors. Times are monotonic seconds.

    Every method returns instructions to be carried out in order. ``next_s`` is when
    ``tick`` wants to be called.
    """

    limits: CallLimits = field(default_factory=CallLimits)
    _open: dict[CallId, _Open] = field(default_factory=dict)
    _waiting: OrderedDict[str, OrderedDict[CallId, _Open]] = field(default_factory=OrderedDict)
    _waiting_count: int = 0
    _running: dict[str, int] = field(default_factory=dict)
    _running_by_method: dict[Key, int] = field(default_factory=dict)
    _methods: dict[Key, MethodInfo] | None = None

    @property
    def methods(self) -> Sequence[MethodInfo]:
        """What the process offers; nothing while it is not ready."""
        return tuple((self._methods or {}).values())

    @property
    def running(self) -> int:
        """Calls in the process."""
        return sum(self._running.values())

    @property
    def waiting(self) -> int:
        """Calls that have not been sent."""
        return self._waiting_count

    @property
    def next_s(self) -> float | None:
        """The earliest deadline of an open call."""
        return min((item.deadline_s for item in self._open.values()), default=None)

    def open(self, call: Call, now_s: float) -> list[Instruction]:
        """A call of the kernel. Raises ``DuplicateCallError`` when its id is open."""
        if call.id in self._open:
            raise DuplicateCallError(f"expected a new call id, got {call.id}, which is open")
        error = _oversize(call) or self._unknown(call)
        if error is not None:
            return [Answer(Returned(call.id, error=error))]
        item = _Open(call, now_s + self.limits.wait_s)
        if self._may_run(item):
            self._open[call.id] = item
            return [self._run(item, now_s)]
        queued = len(self._waiting.get(call.panel, ()))
        if self._waiting_count >= self.limits.waiting or queued >= self.limits.waiting_per_panel:
            return [Answer(_failed(call.id, ErrorCode.OVERLOADED, "too many calls of extensions wait"))]
        self._open[call.id] = item
        self._waiting.setdefault(call.panel, OrderedDict())[call.id] = item
        self._waiting_count += 1
        return []

    def cancel(self, call_id: CallId, now_s: float) -> list[Instruction]:
        """The kernel wants no more of a call. Nothing happens if it is not open."""
        item = self._open.get(call_id)
        if item is None:
            return []
        stop: list[Instruction] = [Send(Cancel(call_id))] if item.running else []
        self._close(item)
        answer = Answer(_failed(call_id, ErrorCode.CANCELLED, "the call was cancelled"))
        return [*stop, answer, *self._fill(now_s)]

    def ready(self, methods: Sequence[MethodInfo], now_s: float) -> list[Instruction]:
        """A process has started, and offers ``methods``."""
        self._methods = {(info.extension, info.method): info for info in methods}
        answers: list[Instruction] = []
        for item in [item for item in self._open.values() if not item.running]:
            if (error := self._unknown(item.call)) is not None:
                self._close(item)
                answers.append(Answer(Returned(item.call.id, error=error)))
        return answers + self._fill(now_s)

    def returned(self, returned: Returned, now_s: float) -> list[Instruction]:
        """The process answers. What is not running is ignored."""
        item = self._open.get(returned.id)
        if item is None or not item.running:
            return []
        self._close(item)
        return [Answer(returned), *self._fill(now_s)]

    def lost(self) -> list[Instruction]:
        """The process has ended: what ran is lost, what waits goes on waiting."""
        methods, self._methods = self._methods or {}, None
        answers: list[Instruction] = []
        for item in [item for item in self._open.values() if item.running]:
            self._close(item)
            error = CallError(
                ErrorCode.LOST, "the extension process ended during the call", methods[item.key].repeatable
            )
            answers.append(Answer(Returned(item.call.id, error=error)))
        return answers

    def give_up(self) -> list[Instruction]:
        """There will be no process: everything that is open is answered.

        Call ``lost`` first if one has ended.
        """
        items = list(self._open.values())
        for item in items:
            self._close(item)
        text = "the extension process does not run"
        return [Answer(_failed(item.call.id, ErrorCode.UNAVAILABLE, text)) for item in items]

    def tick(self, now_s: float) -> list[Instruction]:
        """Answers what is past its deadline."""
        instructions: list[Instruction] = []
        for item in [item for item in self._open.values() if item.deadline_s <= now_s]:
            self._close(item)
            if item.running:
                instructions.append(Send(Cancel(item.call.id)))
                code, text = ErrorCode.TIMEOUT, "the call took too long"
            elif self._methods is None:
                code, text = ErrorCode.UNAVAILABLE, "the extension process does not run"
            else:
                code, text = ErrorCode.OVERLOADED, "the call waited too long for its turn"
            instructions.append(Answer(_failed(item.call.id, code, text)))
        return instructions + self._fill(now_s)

    def _unknown(self, call: Call) -> CallError | None:
        if self._methods is None or (call.extension, call.method) in self._methods:
            return None
        if any(extension == call.extension for extension, _ in self._methods):
            text = f"the extension {call.extension} has no method {call.method[:64]!r}"
            return CallError(ErrorCode.METHOD_UNKNOWN, text)
        return CallError(ErrorCode.UNKNOWN, f"there is no extension {call.extension[:64]!r}")

    def _may_run(self, item: _Open) -> bool:
        if self._methods is None or self.running >= self.limits.running:
            return False
        if self._running.get(item.call.panel, 0) >= self.limits.running_per_panel:
            return False
        concurrency = self._methods[item.key].concurrency
        return not concurrency or self._running_by_method.get(item.key, 0) < concurrency

    def _run(self, item: _Open, now_s: float) -> Instruction:
        assert self._methods is not None
        item.running = True
        item.deadline_s = now_s + self._methods[item.key].timeout_s + self.limits.grace_s
        self._running[item.call.panel] = self._running.get(item.call.panel, 0) + 1
        self._running_by_method[item.key] = self._running_by_method.get(item.key, 0) + 1
        return Send(item.call)

    def _close(self, item: _Open) -> None:
        del self._open[item.call.id]
        if not item.running:
            self._leave_queue(item)
            return
        _decrement(self._running, item.call.panel)
        _decrement(self._running_by_method, item.key)

    def _leave_queue(self, item: _Open) -> None:
        queue = self._waiting[item.call.panel]
        del queue[item.call.id]
        self._waiting_count -= 1
        if not queue:
            del self._waiting[item.call.panel]

    def _fill(self, now_s: float) -> list[Instruction]:
        """Gives free slots to waiting calls, one for each panel in turn."""
        instructions: list[Instruction] = []
        found = self._methods is not None
        while found:
            found = False
            for panel in list(self._waiting):
                if self.running >= self.limits.running:
                    return instructions
                item = next(filter(self._may_run, self._waiting[panel].values()), None)
                if item is not None:
                    self._leave_queue(item)
                    if panel in self._waiting:
                        self._waiting.move_to_end(panel)
                    instructions.append(self._run(item, now_s))
                    found = True
        return instructions


def _oversize(call: Call) -> CallError | None:
    """What the process would take for a broken peer."""
    if len(call.arguments) > MAX_ARGUMENTS_BYTES:
        text = f"expected arguments of at most {MAX_ARGUMENTS_BYTES} bytes, got {len(call.arguments)}"
        return CallError(ErrorCode.ARGUMENTS, text)
    names = (
        call.id, call.extension, call.method, call.panel, call.tool, call.principal, call.suspension,
        call.idempotency_key,
    )  # fmt: skip
    if not call.id or max(map(len, names)) > MAX_NAME_CHARS:
        return CallError(ErrorCode.ARGUMENTS, f"expected names of at most {MAX_NAME_CHARS} characters")
    return None


def _failed(call_id: CallId, code: ErrorCode, message: str) -> Returned:
    return Returned(call_id, error=CallError(code, message))


def _decrement(counts: dict[K, int], key: K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
