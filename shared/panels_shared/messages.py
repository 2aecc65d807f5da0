"""What gateway and workers say to each other. ``wire`` says how it is put into frames.

There are two kinds of worker peers: a *pool* (the ``panels-worker`` process: it prepares handlers in
disposable processes and reports its dead children) and the *sandboxes* it starts (each
runs jobs, one at a time).

A panel's jobs run in an *epoch* on one sandbox, numbered by ``index`` from 0. The sandbox keeps a replica of
the panel's state and applies each completed job to it at once, so that jobs can be pipelined; the gateway
commits the results in the same order. Whatever makes the gateway disagree with the replica starts a new
epoch, by a ``Snapshot`` or by a ``Delta`` against a position that the replica still knows.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, NewType

import msgspec
from msgspec import Meta

from panels_shared.limits import MAX_ANSWER_BYTES, MAX_ELEMENTS, MAX_OPEN_CALLS
from panels_shared.names import MAX_NAME_CHARS
from panels_shared.outcome import CallNumber, Image, Outcome

WorkerId = NewType("WorkerId", bytes)  #: a peer's ZeroMQ routing id: 16 random bytes, new at each spawn
PoolId = NewType("PoolId", bytes)  #: the routing id of the pool that started a sandbox
Digest = NewType("Digest", bytes)  #: SHA-256 of a handler, see ``handler_digest``
PanelKey = NewType("PanelKey", int)  #: a panel, as the gateway numbers it; never used again
ToolKey = NewType("ToolKey", int)  #: a tool of a panel, as the gateway numbers it; never used again

#: The longest that compiling a handler is said to take, in milliseconds.
MAX_CPU_MS: Final = 600_000

#: Labels of a pool.
MAX_LABELS: Final = 16
Label = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]

Language = Literal["wasm", "wat", "javascript", "typescript"]

#: Security limits on what peers say of themselves and of each other: bytes of a routing id or a digest,
#: entries of a map of versions or a list of layers, characters of their words, of why a layer is missing, and
#: of what a refusal says.
MAX_ID_BYTES: Final = 32
MAX_LAYERS: Final = 12
MAX_SHORT_CHARS: Final = 64
MAX_REASON_CHARS: Final = 160
MAX_REFUSAL_CHARS: Final = 16_384

ShortText = Annotated[str, Meta(max_length=MAX_SHORT_CHARS)]
ReasonText = Annotated[str, Meta(max_length=MAX_REASON_CHARS)]
#: What a pool counts or measures; a security limit, so that sums stay exact as floats.
Amount = Annotated[int, Meta(ge=0, le=2**50)]
_Id = Annotated[bytes, Meta(max_length=MAX_ID_BYTES)]
_Tools = Annotated[tuple[int, ...], Meta(max_length=MAX_ELEMENTS)]


# -- gateway → sandbox -------------------------------------------------------------------------------


class Tool(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Defines ``tool`` for later jobs: what to run (by ``digest``) and within which bounds.

    ``capabilities`` is the effective list for this tool, patterns like ``state:write:todo*``. ``limits``
    holds the fields of ``Limits`` in their order.
    """

    tool: int
    digest: bytes
    language: Language
    entry: str
    name: str
    limits: tuple[int, int, int, int, int, int, int]
    capabilities: Annotated[tuple[str, ...], Meta(max_length=MAX_ELEMENTS)]


class Snapshot(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Begins ``epoch`` of ``panel`` with this whole state (key → JSON)."""

    panel: int
    epoch: int
    state: Annotated[dict[str, bytes], Meta(max_length=MAX_ELEMENTS)]


class Delta(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Begins ``epoch`` of ``panel`` from what the replica was after job ``base_index`` of ``base_epoch``
    (-1: at that epoch's begin), with ``changes`` applied (key → JSON, None for deleted)."""

    panel: int
    epoch: int
    base_epoch: int
    base_index: int
    changes: Annotated[dict[str, bytes | None], Meta(max_length=MAX_ELEMENTS)]


class Job(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """Run ``tool`` with ``args`` on the panel's replica.

    ``committed`` is the highest index of this epoch that the gateway has committed (-1 for none): what undoes
    earlier jobs may be forgotten. ``args`` and ``scope`` are JSON. ``now_ms`` and ``seed`` are the job's only
    clock and randomness, so that it can be replayed bit for bit.
    """

    job: int
    panel: int
    epoch: int
    index: int
    committed: int
    tool: int
    args: bytes
    scope: bytes
    now_ms: float
    seed: int


class Revoke(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Do not begin any more jobs of ``panel`` up to and including ``epoch``; no answer is wanted for them."""

    panel: int
    epoch: int


class Forget(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The panel is gone, or lives elsewhere: drop its replica and these tools."""

    panel: int
    tools: _Tools


class Drain(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """The gateway is stopping, or wants to be rid of this peer: finish what was sent, then say Goodbye."""


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Answers Hello. ``session`` names this run of the gateway: a different one than before means that
    everything earlier (tools, replicas, jobs) is void."""

    session: bytes
    heartbeat_ms: int


class Prepare(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """gateway → pool. Check and compile this handler and keep the artifact under its digest."""

    digest: bytes
    language: Language
    entry: str
    source: bytes


class Answered(msgspec.Struct, frozen=True, array_like=True):
    """What an extension answered to ``call`` of the handler that is resumed.

    ``value`` is JSON: the result of a call that went well (``ok``), else an object with the strings ``code``
    and ``message``. The handler ignores an answer to a call that it did not make, or that was answered
    before.
    """

    call: CallNumber
    ok: bool
    value: Annotated[bytes, Meta(max_length=MAX_ANSWER_BYTES)]


class Resume(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Go on with the handler that ``image`` is, which was suspended as ``tool``, on the panel's replica.

    It stands in a panel's order like a Job: the same numbering of ``index``, the same meaning of
    ``committed``, answered by a Result or Missing under its own ``job``. ``scope``, ``now_ms`` and ``seed``
    belong to this segment. ``answers`` are given to the handler in their order; there is at least one.
    """

    job: int
    panel: int
    epoch: int
    index: int
    committed: int
    tool: int
    scope: bytes
    now_ms: float
    seed: int
    image: Image
    answers: Annotated[tuple[Answered, ...], Meta(min_length=1, max_length=MAX_OPEN_CALLS)]


class Abandon(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """gateway → pool. Nobody waits for this handler: do not compile it, and answer ``Prepared`` with the
    refusal ``abandoned`` unless it has been answered.
    """

    digest: bytes


class Replace(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """gateway → pool. This sandbox lives and does not answer a run that should have ended long ago: kill it,
    and start another. It is said to pools whose Hello says that they understand it.
    """

    worker: _Id


# -- sandbox or pool → gateway -----------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=32):
    """First message of a peer, and again after each Welcome-less second (the gateway may have restarted).

    ``credential`` proves who speaks, see ``buskey``: what the other fields claim has to agree with it. A
    sandbox is confined by now, and says by which layers (``active``), and which are not in force and why
    (``missing``). That is what was true when it started: it is no proof.

    A pool with ``labels`` runs panels that name one of them and no others; those of a sandbox are its pool's.
    ``replaces``: the pool understands ``Replace``.
    """

    role: Literal["sandbox", "pool"]
    pool: _Id
    pid: int
    versions: Annotated[dict[ShortText, ShortText], Meta(max_length=MAX_LAYERS)]
    credential: Annotated[bytes, Meta(max_length=64)] = b""
    active: Annotated[tuple[ShortText, ...], Meta(max_length=MAX_LAYERS)] = ()
    missing: Annotated[tuple[ReasonText, ...], Meta(max_length=MAX_LAYERS)] = ()
    labels: Annotated[tuple[Label, ...], Meta(max_length=MAX_LABELS)] = ()
    replaces: bool = False


class PoolReport(msgspec.Struct, frozen=True, array_like=True):
    """What a pool measures of its sandboxes, from outside.

    ``processes`` are wanted and ``ready`` of them serve; ``rss_bytes`` is their resident memory. Since the
    pool began, ``started`` were started, ``crashed`` ended without having been told to, ``killed`` were
    killed by the pool because they hung or stayed, and all of them used ``cpu_ms`` of CPU time.
    """

    processes: Amount
    ready: Amount
    rss_bytes: Amount
    started: Amount
    crashed: Amount
    killed: Amount
    cpu_ms: Amount


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, tag=33):
    """Says *alive*, not *making progress*: the dispatcher's job deadlines watch progress.

    ``worker`` is the peer it speaks for, because a sandbox beats on a second socket while its
    first is busy running a job. ``report`` is a pool's, for metrics; nothing is decided by it.
    """

    worker: _Id
    rss_bytes: int
    report: PoolReport | None = None


class Result(msgspec.Struct, frozen=True, array_like=True, tag=34, gc=False):
    """How ``job`` ended."""

    job: int
    outcome: Outcome


class Missing(msgspec.Struct, frozen=True, array_like=True, tag=35):
    """``job`` was not run: this sandbox lacks its tool's definition, the panel's replica at that position, or
    the artifact. Send it and the job again.
    """

    job: int
    what: Literal["tool", "replica", "artifact"]


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """Why a handler was refused.

    ``code`` is a word for programs (``malformed``, ``too_large``, ``unsupported``, ``unknown_import``,
    ``missing_export``, ``signature``, ``memory``, ``too_costly``, ``syntax``,
    ``abandoned``); ``message`` a sentence for its
    author; ``line`` and ``column`` are 1-based, 0 where there is none.
    """

    code: ShortText
    message: Annotated[str, Meta(max_length=MAX_REFUSAL_CHARS)]
    line: int = 0
    column: int = 0


class Prepared(msgspec.Struct, frozen=True, array_like=True, tag=36):
    """pool → gateway: the handler can be run by this pool's sandboxes, or why it never will.

    ``cpu_ms`` is the CPU time that it took to say so, 0 where it was known.
    """

    digest: _Id
    refusal: Refusal | None
    cpu_ms: Annotated[int, Meta(ge=0, le=MAX_CPU_MS)] = 0


class Exited(msgspec.Struct, frozen=True, array_like=True, tag=37):
    """pool → gateway: this sandbox process has ended; its jobs will not be answered."""

    worker: _Id


class Goodbye(msgspec.Struct, frozen=True, array_like=True, tag=38):
    """The peer leaves.

    ``draining``: it still answers what it was sent, but wants no more; else it is gone.
    """

    draining: bool


ToWorker = (
    Tool | Snapshot | Delta | Job | Resume | Revoke | Forget | Drain | Welcome | Prepare | Abandon | Replace
)
ToGateway = Hello | Heartbeat | Result | Missing | Prepared | Exited | Goodbye
