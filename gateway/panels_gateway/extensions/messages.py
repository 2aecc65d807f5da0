"""What the gateway and the extension process say to each other. ``framing`` has the bytes.

Tags differ by direction, so that a message that comes back is refused. Arguments and results are JSON text,
as everywhere in panels: the gateway never looks inside. All bounds are security limits, and either side
checks them on what the other sends.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final, NewType, TypeAlias

import msgspec

from panels_gateway.extensions.errors import MAX_MESSAGE_CHARS, CallError

CallId = NewType("CallId", str)

#: The longest name, id or key, in characters.
MAX_NAME_CHARS: Final = 256
#: Arguments of one call, in bytes of JSON.
MAX_ARGUMENTS_BYTES: Final = 1024 * 1024
#: The largest result that any configuration can allow, in bytes of JSON.
MAX_RESULT_BYTES: Final = 16 * 1024 * 1024
#: Ledger entries of one call.
MAX_LEDGER_ENTRIES: Final = 64
#: Methods of all extensions together.
MAX_METHODS: Final = 4_096

Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_NAME_CHARS)]


class Verdict(str, Enum):
    """How one exchange with another host ended."""

    OK = "ok"
    DENIED = "denied"
    LIMIT = "limit"
    TIMEOUT = "timeout"
    FAILED = "failed"


class LedgerEntry(msgspec.Struct, frozen=True, array_like=True):
    """One exchange with another host, or the refusal of one; every redirect is an exchange of its own.

    ``host`` is as the handler spelt it, with the port; ``address`` is the one that was connected to, "" when
    none was. Bytes are those of HTTP, without TLS. ``secrets`` are the names of those that were sent.
    """

    host: Annotated[str, msgspec.Meta(max_length=1_024)]
    address: Name
    bytes_sent: int
    bytes_received: int
    ms: int
    secrets: Annotated[list[Name], msgspec.Meta(max_length=64)]
    verdict: Verdict


class Call(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Make one call.

    ``id`` is unique among open calls. ``arguments`` is JSON: an array, as ``$ext.name.method(...)`` was
    called with, or an object of parameters by name. ``principal`` is the subject whose trigger this is, ""
    for the panel itself. ``idempotency_key`` is the same whenever this call is made again. ``traceparent`` is
    "" where the trigger is not traced.
    """

    id: Annotated[CallId, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARS)]
    extension: Name
    method: Name
    arguments: Annotated[bytes, msgspec.Meta(max_length=MAX_ARGUMENTS_BYTES)]
    panel: Name
    tool: Name
    principal: Name
    suspension: Name
    idempotency_key: Name
    traceparent: Name = ""


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Stop a call. Nothing answers."""

    id: Annotated[CallId, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARS)]


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Answer with a Pong, from the event loop that runs the extensions."""


class MethodInfo(msgspec.Struct, frozen=True, array_like=True):
    """What the gateway needs to know of a method.

    ``timeout_s`` is how long a call may run; ``concurrency`` is how many may run at once, 0 for as many as
    the gateway allows; ``repeatable`` says that a lost call may be made again with the same idempotency key.
    """

    extension: Name
    method: Name
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)]
    concurrency: Annotated[int, msgspec.Meta(ge=0)]
    repeatable: bool


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """All extensions have started; calls may come. ``confinement`` names what locks the process in, and what
    is missing of it.
    """

    methods: Annotated[list[MethodInfo], msgspec.Meta(max_length=MAX_METHODS)]
    confinement: Annotated[str, msgspec.Meta(max_length=1_024)] = ""


class Returned(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """The answer to a call: ``result`` as JSON, or ``error``; never both, and never neither."""

    id: Annotated[CallId, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARS)]
    result: Annotated[bytes, msgspec.Meta(max_length=MAX_RESULT_BYTES)] | None = None
    error: CallError | None = None
    ledger: Annotated[list[LedgerEntry], msgspec.Meta(max_length=MAX_LEDGER_ENTRIES)] = []

    def __post_init__(self) -> None:
        if (self.result is None) == (self.error is None):
            raise ValueError("expected either a result or an error")
        if self.error is not None and len(self.error.message) > MAX_MESSAGE_CHARS:
            raise ValueError(f"expected a message of at most {MAX_MESSAGE_CHARS} characters")


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """The event loop of the extensions turns."""


ToExtensions: TypeAlias = Call | Cancel | Ping
FromExtensions: TypeAlias = Ready | Returned | Pong
