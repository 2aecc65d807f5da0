"""Who may speak on the bus, and what. Pure: bytes and times in, verdicts out.

A peer is what its credential proves (``panels_shared.buskey``), whatever it says. One that has proved
nothing may only say Hello, in a small frame, and is never answered. An admitted one may say what its role
says: anything else is a *breach*, after which it is out.

    stranger ──Hello, proved──▶ admitted (pool | sandbox) ──breach──▶ out; a sandbox for ever
                                    └──Exited, by its own pool──▶ spent: its ticket admits nobody again

A sandbox's second socket needs no Hello. Its routing id follows from the first one's, and it may only send
heartbeats for its own sandbox.

The proofs need no memory, so a gateway that was restarted admits the same peers, in any order. It has
forgotten by then who was spent; such an id is worth nothing, because what it was given to has ended.

All bounds here are security limits. A pool has at most ``MAX_SANDBOXES_PER_POOL`` sandboxes and
``MAX_SPENT_PER_POOL`` spent ids, the oldest of which go first; ``MAX_POOLS_REMEMBERED`` pools have spent
ids. The owner of the fleet bounds the number of pools and tells ``retain`` who is left.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from panels_gateway.observe.counters import BrokerCounters
from panels_gateway.observe.fleet import PoolSummary
from panels_shared import messages as m
from panels_shared import wire
from panels_shared.buskey import ROUTING_ID_BYTES, beat_id, pool_proof, sandbox_ticket
from panels_shared.messages import MAX_LAYERS, ToGateway, WorkerId

#: The largest frame in which a stranger's Hello is looked for: four times what a real one needs.
MAX_HELLO_FRAME_BYTES: Final = 4_096
#: Twice what a pool keeps running at most, because the next may be there before the last is reported.
MAX_SANDBOXES_PER_POOL: Final = 512
MAX_SPENT_PER_POOL: Final = 1_024
MAX_POOLS_REMEMBERED: Final = 256
#: Pools that ``/health`` lists.
MAX_POOLS_SHOWN: Final = 256

#: [version, [[32, ... as it is encoded with up to 15 messages: Hello is the first of them.
_FRAME_OF_TWO, _HELLO_TAG = 0x92, 0x20
_SHORT_ARRAY: Final = range(0x91, 0xA0)


class Role(Enum):
    """What an admitted routing id is."""

    POOL = "pool"
    SANDBOX = "sandbox"
    BEAT = "beat"


@dataclass(frozen=True, slots=True)
class Standing:
    """An admitted routing id. ``peer`` is whom it speaks for: itself, or the sandbox of a BEAT."""

    role: Role
    peer: WorkerId
    pool: bytes
    hello: m.Hello


class Verdict(Enum):
    """What becomes of a Hello. Nothing is answered unless it is ADMITTED."""

    ADMITTED = "admitted"
    UNPROVED = "unproved"  #: from a stranger: its credential proves nothing, or not what it claims
    SPENT = "spent"  #: the sandbox of this routing id has ended, or broke the rules
    CROWDED = "crowded"  #: its pool has too many sandboxes
    BREACH = "breach"  #: from an admitted peer: it claims to be somebody else


@dataclass(slots=True)
class _PoolBook:
    """What is remembered of a pool: its sandboxes, and the ids that are spent, oldest first."""

    sandboxes: set[bytes] = field(default_factory=set[bytes])
    spent: dict[bytes, None] = field(default_factory=dict[bytes, None])


class Admission:
    """See the module's docstring. ``key`` is the bus key; who is turned away is counted in ``counters``."""

    __slots__ = ("_books", "_key", "_standings", "counters")

    def __init__(self, key: bytes, counters: BrokerCounters) -> None:
        self.counters = counters
        self._key = key
        self._standings: dict[bytes, Standing] = {}
        self._books: dict[bytes, _PoolBook] = {}

    def standing(self, peer: bytes) -> Standing | None:
        """What the routing id ``peer`` was admitted as; None for a stranger."""
        return self._standings.get(peer)

    def listens_to(self, parts: Collection[bytes], frame: bytes) -> bool:
        """Whether a stranger's frame is worth decoding: one part that begins with a Hello, and is small.

        Counts it as dropped if not. ``parts`` are the routing id and what came, ``frame`` the last of them.
        """
        if len(parts) == 2 and 5 <= len(frame) <= MAX_HELLO_FRAME_BYTES and _begins_with_hello(frame):
            return True
        self.counters.strangers_dropped += 1
        return False

    def hello(self, peer: bytes, hello: m.Hello) -> Verdict:
        """Decides on a Hello of ``peer``, and notes who is admitted."""
        known = self._standings.get(peer)
        role = self._proved(peer, hello)
        if role is None or role.value != hello.role or (known is not None and known.role is not role):
            if known is None:
                self.counters.hellos_refused += 1
                return Verdict.UNPROVED
            self.breach(peer)
            return Verdict.BREACH
        pool = peer if role is Role.POOL else hello.pool
        if role is Role.SANDBOX:
            book = self._book(pool)
            if peer in book.spent:
                self.counters.hellos_refused += 1
                return Verdict.SPENT
            if peer not in book.sandboxes and len(book.sandboxes) >= MAX_SANDBOXES_PER_POOL:
                self.counters.hellos_refused += 1
                return Verdict.CROWDED
            book.sandboxes.add(peer)
            self._standings[beat_id(peer)] = Standing(Role.BEAT, WorkerId(peer), pool, hello)
        self._standings[peer] = Standing(role, WorkerId(peer), pool, hello)
        return Verdict.ADMITTED

    def allows(self, standing: Standing, message: ToGateway | wire.UnreadResult) -> bool:
        """Whether a peer of this standing may say this. Results are every sandbox's to say."""
        match message:
            case m.Hello():
                return standing.role is not Role.BEAT
            case m.Heartbeat():
                return message.worker == standing.peer
            case m.Result() | m.Missing() | wire.UnreadResult():
                return standing.role is Role.SANDBOX
            case m.Prepared():
                return standing.role is Role.POOL
            case m.Exited():
                ended = self._standings.get(message.worker)
                own = ended is None or (ended.role is Role.SANDBOX and ended.pool == standing.peer)
                return standing.role is Role.POOL and own
            case m.Goodbye():
                return standing.role is not Role.BEAT

    def exited(self, pool: bytes, worker: bytes) -> None:
        """``pool`` says that its sandbox ``worker`` has ended: nobody is admitted under that id again."""
        self._spend(pool, worker)

    def breach(self, peer: bytes) -> None:
        """``peer`` has said what it may not. It is out, and a sandbox stays out."""
        self.counters.breaches += 1
        standing = self._standings.get(peer)
        if standing is None:
            return
        if standing.role is Role.POOL:
            del self._standings[peer]
        else:
            self._spend(standing.pool, standing.peer)

    def forget(self, peer: bytes) -> None:
        """``peer`` could not be taken in after all; it may say Hello again."""
        standing = self._standings.pop(peer, None)
        if standing is not None and standing.role is Role.SANDBOX:
            self._standings.pop(beat_id(peer), None)
            if standing.pool in self._books:
                self._books[standing.pool].sandboxes.discard(peer)

    def retain(self, peers: Collection[bytes]) -> None:
        """Forgets all sandboxes and pools but ``peers`` and the sandboxes of pools among them: those will
        be reported when they have ended."""
        gone = [
            peer
            for peer, standing in self._standings.items()
            if standing.role is not Role.BEAT and peer not in peers and standing.pool not in peers
        ]
        for peer in gone:
            self.forget(peer)

    def pools(self) -> list[PoolSummary]:
        """The pools that are admitted, the oldest first, at most ``MAX_POOLS_SHOWN``."""
        shown: list[PoolSummary] = []
        for peer, standing in self._standings.items():
            if standing.role is Role.POOL and len(shown) < MAX_POOLS_SHOWN:
                book = self._books.get(peer)
                hellos = [self._standings[each].hello for each in book.sandboxes] if book else []
                shown.append(
                    PoolSummary(
                        sandboxes=len(hellos),
                        versions=standing.hello.versions,
                        layers=_most(Counter(layer for hello in hellos for layer in set(hello.active))),
                        missing=_most(Counter(layer for hello in hellos for layer in set(hello.missing))),
                    )
                )
        return shown

    def _proved(self, peer: bytes, hello: m.Hello) -> Role | None:
        """What ``hello``'s credential proves ``peer`` to be."""
        if len(peer) != ROUTING_ID_BYTES:
            return None
        if hmac.compare_digest(hello.credential, pool_proof(self._key, peer)):
            return Role.POOL
        if len(hello.pool) != ROUTING_ID_BYTES:
            return None
        if hmac.compare_digest(hello.credential, sandbox_ticket(self._key, peer, hello.pool)):
            return Role.SANDBOX
        return None

    def _spend(self, pool: bytes, worker: bytes) -> None:
        self.forget(worker)
        spent = self._book(pool).spent
        spent[worker] = None
        if len(spent) > MAX_SPENT_PER_POOL:
            del spent[next(iter(spent))]

    def _book(self, pool: bytes) -> _PoolBook:
        book = self._books.get(pool)
        if book is None:
            if len(self._books) >= MAX_POOLS_REMEMBERED:
                self._forget_a_pool()
            book = self._books[pool] = _PoolBook()
        return book

    def _forget_a_pool(self) -> None:
        """Makes room for another pool's book: a pool that is gone goes first, then the oldest."""
        standings = self._standings
        oldest = next((pool for pool in self._books if pool not in standings), next(iter(self._books)))
        for worker in list(self._books[oldest].sandboxes):
            self.forget(worker)
        del self._books[oldest]


def _begins_with_hello(frame: bytes) -> bool:
    return (
        frame[0] == _FRAME_OF_TWO
        and frame[2] in _SHORT_ARRAY
        and frame[3] in _SHORT_ARRAY
        and frame[4] == _HELLO_TAG
    )


def _most(counts: Counter[str]) -> dict[str, int]:
    """The most frequent ones: what a compromised sandbox says of itself must not crowd out the rest."""
    return dict(counts.most_common(MAX_LAYERS))
