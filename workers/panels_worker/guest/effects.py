"""What a handler has done so far in one job: the pure half of every host function.

Both kinds of guests, modules and scripts, write through this class, so that capabilities, bounds and JSON
validity are checked in one place, outside the guest. Nothing here is visible to anyone until the job has
completed.
"""

from __future__ import annotations

import random
from time import monotonic, sleep
from typing import Final, NoReturn

from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError
from panels_shared.limits import MAX_CALL_ARGS_BYTES, MAX_CALLS, MAX_OPEN_CALLS
from panels_shared.outcome import Completed, LogLine, Suspended, Usage
from panels_worker.guest.calls import Calls, is_name
from panels_worker.guest.task import Task

#: Security limits on names.
MAX_KEY_CHARS: Final = 256
MAX_NAME_CHARS: Final = 256

#: How many calls of a guest go by until the clock is looked at, how often the interpreter's lock is let go
#: for a while, and for how long, in seconds.
_CALLS_BETWEEN_LOOKS: Final = 8
_YIELD_S: Final = 0.005
_PAUSE_S: Final = 0.000_05

_TRUNCATED: Final = LogLine(2, "… the log was cut here: it has reached its limit")

_encode = jsonvalue.encode


class LimitReached(Exception):  # noqa: N818 - an ending of the job, not an error of ours
    """A bound of the job was passed: it ends here. The text is for the client."""


class Denied(Exception):  # noqa: N818
    """The tool's capabilities do not allow this. The text is for the client."""


class InvalidValue(Exception):  # noqa: N818
    """The guest gave what is not a name, or not a JSON value. The text is for the client."""


class InvalidName(InvalidValue):
    """The guest gave what cannot be the name of an extension or of a method."""


class Effects:
    """See the module's docstring. Methods raise ``LimitReached``, ``Denied`` or ``InvalidValue``."""

    __slots__ = (
        "_log_bytes",
        "_log_full",
        "_output_bytes",
        "_random",
        "_yield_s",
        "calls",
        "changes",
        "events",
        "extension_calls",
        "log",
        "return_value",
        "task",
        "views",
    )

    def __init__(self, task: Task) -> None:
        self.task = task
        self.calls = 0
        self.changes: dict[str, bytes | None] = {}
        #: None for a handler that has never called one.
        self.extension_calls: Calls | None = None
        self.events: list[bytes] = []
        self.views: list[bytes] = []
        self.return_value = b"null"
        self.log: list[LogLine] = []
        self._output_bytes = 0
        self._log_bytes = 0
        self._log_full = False
        self._random: random.Random | None = None
        self._yield_s = 0.0

    def count_call(self) -> None:
        """One more call from the guest into the host."""
        self.calls += 1
        if self.calls > self.task.limits.host_calls:
            raise LimitReached(f"expected at most {self.task.limits.host_calls} host calls")
        if not self.calls % _CALLS_BETWEEN_LOOKS:
            self._yield_lock()

    def _yield_lock(self) -> None:
        """Lets the thread that keeps time have the interpreter's lock, every ``_YIELD_S``.

        A guest that calls its host again and again gives the lock up for less than a microsecond at a time,
        in which no other thread wakes up to take it: its deadline would pass unnoticed.
        """
        now_s = monotonic()
        if now_s >= self._yield_s:
            if self._yield_s:
                sleep(_PAUSE_S)
            self._yield_s = now_s + _YIELD_S

    # -- state ---------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        """The value of ``key`` as this job sees it; None when there is none."""
        if not self.task.capabilities.may_read(key):
            raise Denied(f"expected the capability state:read:{key[:MAX_KEY_CHARS]}")
        changes = self.changes
        return changes[key] if key in changes else self.task.state.get(key)

    def has(self, key: str) -> bool:
        """Whether there is a ``key``."""
        return self.get(key) is not None

    def keys(self) -> list[str]:
        """All keys that may be read: those of the state sorted by code points, then new ones in the order of
        their making.

        Sorted, because the order of a replica depends on its past, which a job that is run again elsewhere
        has not.
        """
        may_read = self.task.capabilities.may_read
        changes = self.changes
        found = sorted(key for key in self.task.state if key not in changes or changes[key] is not None)
        if changes:
            state = self.task.state
            found += [key for key, value in changes.items() if value is not None and key not in state]
        return found if may_read.everything else [key for key in found if may_read(key)]

    def set(self, key: str, value: bytes) -> None:
        """Sets ``key`` to a JSON value."""
        self.check_write(key)
        try:
            jsonvalue.validate(value)
        except InvalidJsonError as exc:
            raise InvalidValue(f"state key {key!r}: {exc.problem}") from None
        self._charge_change(key, len(key) + len(value))
        self.changes[key] = value

    def delete(self, key: str) -> bool:
        """Deletes ``key``; False when there was none."""
        self.check_write(key)
        changes = self.changes
        existed = changes[key] is not None if key in changes else key in self.task.state
        if existed:
            self._charge_change(key, len(key))
            if key in self.task.state:
                changes[key] = None
            else:
                del changes[key]
        return existed

    def check_write(self, key: str) -> None:
        """Raises unless ``key`` may be written."""
        if len(key) > MAX_KEY_CHARS:
            raise InvalidValue(f"expected a state key of at most {MAX_KEY_CHARS} characters, got {len(key)}")
        if not self.task.capabilities.may_write(key):
            raise Denied(f"expected the capability state:write:{key}")

    def _charge_change(self, key: str, size: int) -> None:
        old = self.changes.get(key)
        if old is not None:
            size -= len(key) + len(old)
        self._charge(size)

    def check_size(self, size: int) -> None:
        """Raises ``LimitReached`` for one value that is above what all of them together may be."""
        if size > self.task.limits.output_bytes:
            self._refuse_size()

    def _charge(self, size: int) -> None:
        self._output_bytes += size
        if self._output_bytes > self.task.limits.output_bytes:
            self._refuse_size()

    def _refuse_size(self) -> NoReturn:
        raise LimitReached(
            f"expected mutations, events, view commands and return value of at most "
            f"{self.task.limits.output_bytes} bytes together"
        )

    # -- everything else -----------------------------------------------------------------------------

    def emit(self, name: str, payload: bytes, to: str | None = None) -> None:
        """Emits an event with a JSON payload, to everyone or to the subject ``to`` alone."""
        _check_name("event name", name)
        if to is not None:
            _check_name("subject", to)
        task = self.task
        if not task.capabilities.may_emit(name):
            raise Denied(f"expected the capability events:emit:{name}")
        if len(self.events) >= task.limits.events:
            raise LimitReached(f"expected at most {task.limits.events} events")
        try:
            jsonvalue.validate(payload)
        except InvalidJsonError as exc:
            raise InvalidValue(f"event {name!r}: {exc.problem}") from None
        self._charge(len(name) + len(payload) + len(to or ""))
        self.events.append(
            b'{"name":%b,"payload":%b,"timestamp":%d%b}'
            % (
                _encode(name),
                payload,
                int(task.now_ms),
                b"" if to is None else b',"to":%b' % _encode(to),
            )
        )

    def view(self, view_id: str, command: str, params: bytes) -> None:
        """Sends a view command with JSON parameters."""
        _check_name("view id", view_id)
        _check_name("view command", command)
        task = self.task
        if not task.capabilities.may_update(view_id):
            raise Denied(f"expected the capability view:update:{view_id}")
        if len(self.views) >= task.limits.events:
            raise LimitReached(f"expected at most {task.limits.events} view commands")
        try:
            jsonvalue.validate(params)
        except InvalidJsonError as exc:
            raise InvalidValue(f"view command {command!r}: {exc.problem}") from None
        self._charge(len(view_id) + len(command) + len(params))
        self.views.append(
            b'{"viewId":%b,"command":%b,"params":%b}' % (_encode(view_id), _encode(command), params)
        )

    def call_extension(self, extension: str, method: str, args: bytes) -> int:
        """Records the call of a method with ``args``, a JSON array; the call's number."""
        if not (is_name(extension) and is_name(method)):
            raise InvalidName("expected the names of an extension and a method")
        may_call = self.task.capabilities.may_call
        if not (may_call(extension) or may_call(f"{extension}.{method}")):
            raise Denied(f"expected the capability ext:{extension} or ext:{extension}.{method}")
        try:
            jsonvalue.validate(args)
        except InvalidJsonError as exc:
            raise InvalidValue(f"arguments of {extension}.{method}: {exc.problem}") from None
        if args.lstrip(b" \t\r\n")[:1] != b"[":
            raise InvalidValue(f"arguments of {extension}.{method}: expected a JSON array")
        calls = self.known_calls()
        if len(args) > MAX_CALL_ARGS_BYTES:
            raise LimitReached(f"expected at most {MAX_CALL_ARGS_BYTES} bytes of arguments, got {len(args)}")
        if len(calls.requests) >= MAX_CALLS:
            raise LimitReached(f"expected at most {MAX_CALLS} extension calls at once")
        if len(calls.open) >= MAX_OPEN_CALLS:
            raise LimitReached(f"expected at most {MAX_OPEN_CALLS} extension calls that wait for an answer")
        self._charge(len(args))
        return calls.make(extension, method, args)

    def known_calls(self) -> Calls:
        """The calls of a handler, made when there are none yet."""
        if self.extension_calls is None:
            self.extension_calls = Calls()
        return self.extension_calls

    @property
    def waits(self) -> bool:
        """Whether there is an extension call that is not answered."""
        calls = self.extension_calls
        return calls is not None and bool(calls.open)

    def returns(self, value: bytes) -> None:
        """Sets the return value, a JSON value; the last one counts."""
        try:
            jsonvalue.validate(value)
        except InvalidJsonError as exc:
            raise InvalidValue(f"return value: {exc.problem}") from None
        self._charge(len(value) - (0 if self.return_value == b"null" else len(self.return_value)))
        self.return_value = value

    def write_log(self, level: int, text: str) -> None:
        """Logs a line; what is above the limit is cut, and marked once."""
        if self._log_full:
            return
        room = self.task.limits.log_bytes - self._log_bytes
        size = len(text.encode("utf-8", "replace"))
        if size > room:
            text = text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore")
            self._log_full = True
        self._log_bytes += size + 1  # an empty line is not free
        self.log.append(LogLine(min(3, max(0, level)), text))
        if self._log_full:
            self.log.append(_TRUNCATED)

    def random_bytes(self, count: int) -> bytes:
        """Bytes from the job's seed: the same job sees the same ones."""
        if self._random is None:
            self._random = random.Random(self.task.seed)
        return self._random.randbytes(count)

    def completed(self, usage: Usage) -> Completed:
        """The outcome of a job that ran to its end."""
        return Completed(
            usage, self.return_value, self._mutations(), tuple(self.events), self._views(), tuple(self.log)
        )

    def suspended(self, usage: Usage, image: bytes) -> Suspended:
        """The outcome of a job that waits for extensions, and is ``image``."""
        calls = self.extension_calls
        requests = () if calls is None else tuple(calls.requests)
        events, log = tuple(self.events), tuple(self.log)
        return Suspended(usage, requests, image, self._mutations(), events, self._views(), log)

    def _mutations(self) -> bytes:
        changes = self.changes
        if not changes:
            return b"[]"
        mutations = [
            b'{"op":"delete","key":%b}' % _encode(key)
            if value is None
            else b'{"op":"set","key":%b,"value":%b}' % (_encode(key), value)
            for key, value in changes.items()
        ]
        return b"[%b]" % b",".join(mutations)

    def _views(self) -> bytes:
        return b"[%b]" % b",".join(self.views) if self.views else b"[]"


def _check_name(what: str, name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME_CHARS:
        raise InvalidValue(f"expected a {what} of 1 to {MAX_NAME_CHARS} characters, got {len(name)}")
