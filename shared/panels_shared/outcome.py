"""How a job can end, and what each ending may carry.

These are trees of values and make no cycles, so the collector need not look at them (``gc=False``): a gateway
keeps tens of thousands of them until their commits are folded.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta

from panels_shared.limits import (
    MAX_CALL_ARGS_BYTES,
    MAX_CALLS,
    MAX_ELEMENTS,
    MAX_EXTENSION_NAME_CHARS,
    MAX_IMAGE_BYTES,
)

Image = Annotated[bytes, Meta(max_length=MAX_IMAGE_BYTES)]
"""A suspended handler as data: what the worker makes and only a worker reads."""
CallNumber = Annotated[int, Meta(ge=1, lt=2**53)]
"""An extension call, unique within one handler's life; JavaScript keeps it as a number."""
Events = Annotated[tuple[bytes, ...], Meta(max_length=MAX_ELEMENTS)]
"""The events of one job, each a JSON object."""
_Name = Annotated[str, Meta(min_length=1, max_length=MAX_EXTENSION_NAME_CHARS)]


class Reason(str, Enum):
    """Why a job failed. The ``details.reason`` of an EXECUTION_ERROR."""

    FUEL_EXHAUSTED = "FUEL_EXHAUSTED"
    TIMEOUT = "TIMEOUT"
    MEMORY_LIMIT = "MEMORY_LIMIT"
    STACK_OVERFLOW = "STACK_OVERFLOW"
    TRAP = "TRAP"
    HANDLER_ERROR = "HANDLER_ERROR"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    INVALID_RESULT = "INVALID_RESULT"
    WORKER_LOST = "WORKER_LOST"
    RESUME_FAILED = "RESUME_FAILED"
    CANCELLED = "CANCELLED"


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a job used. ``fuel`` is -1 where the engine cannot say (after a time-out or a memory trap)."""

    fuel: int = 0
    execution_us: int = 0
    memory_used_bytes: int = 0
    memory_peak_bytes: int = 0
    host_calls: int = 0
    cache_hit: bool = False


class LogLine(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One line that a handler logged: ``level`` is 0 debug, 1 info, 2 warn, 3 error."""

    level: int
    text: str


Log = Annotated[tuple[LogLine, ...], Meta(max_length=MAX_ELEMENTS)]
"""What one job logged, in order."""


class Completed(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """The handler ran to its end; its effects wait for the gateway's commit.

    Everything is UTF-8 JSON, validated by the worker and travelling as bytes from there on:

    - ``return_value``: any JSON value (``null`` for none);
    - ``mutations``: an array of ``{"op":"set","key":k,"value":v}`` and ``{"op":"delete","key":k}``, at most
      one per key; ``[]`` for none;
    - ``events``: one ``{"name":n,"payload":p,"timestamp":ms}`` each, in order;
    - ``view_commands``: an array of ``{"viewId":v,"command":c,"params":p}``.
    """

    usage: Usage
    return_value: bytes = b"null"
    mutations: bytes = b"[]"
    events: Events = ()
    view_commands: bytes = b"[]"
    log: Log = ()


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """The job changed nothing. ``message`` is for the client: no inner detail, at most 4 KiB.

    ``line``, ``column`` are 1-based positions in the handler's own source, 0 where not known. ``details``
    is a JSON object with more for the client (``stack``, ``snippet``, ``errorName``,
    ``path``, and ``handlerCode`` with ``handlerDetails``, see ``failure``), ``{}`` for none.
    """

    usage: Usage
    reason: Reason
    message: str
    line: int = 0
    column: int = 0
    details: bytes = b"{}"
    log: Log = ()


class ExtensionCall(msgspec.Struct, frozen=True, array_like=True):
    """A handler's call of ``extension.method``, which its capabilities allow.

    ``call`` numbers the calls of one handler from 1, over all of its segments. ``args`` is a JSON array.
    """

    call: CallNumber
    extension: _Name
    method: _Name
    args: Annotated[bytes, Meta(max_length=MAX_CALL_ARGS_BYTES)]


class Suspended(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The handler waits for extensions; its effects so far wait for the gateway's commit, as in
    ``Completed``.

    ``calls`` are those that it made in this segment. There are none when it waits for calls of earlier
    segments only, which are still open. ``image`` is what ``Resume`` gives back, unchanged; it is as
    confidential as the panel's state, and its holder has to authenticate it.
    """

    usage: Usage
    calls: Annotated[tuple[ExtensionCall, ...], Meta(max_length=MAX_CALLS)]
    image: Image
    mutations: bytes = b"[]"
    events: Events = ()
    view_commands: bytes = b"[]"
    log: Log = ()


Outcome = Completed | Failed | Suspended
