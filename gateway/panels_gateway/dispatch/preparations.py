"""Preparations: which handlers are to be compiled, which pool is asked, and which lanes wait for it. Pure.

Making a panel waits for its handlers (``prepare``, ``take_prepared``), and a lane whose worker belongs to a
pool that has not compiled its next handler waits too (``block``). Either way the pool is asked once. What the
end of a preparation means for lanes is returned, for the caller to carry out.

    prepare ─▶ compiled already: READY
            ─▶ used by some panel, so most likely compiled: a pool is asked at once
            ─▶ CompileQueue, where subjects take turns ─▶ a pool with a free slot

A pool compiles ``SLOTS`` handlers of new definitions at a time, the rest waits here. When somebody waits
while one subject has several slots of a pool for longer than ``PATIENCE_S``, that subject's last one is taken
back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from panels_gateway.dispatch.catalog import Handler, HandlerCatalog, Preparation
from panels_gateway.dispatch.compile_queue import CompileLimits, CompileQueue, Key
from panels_gateway.dispatch.fleet import Fleet, Lane, Pool
from panels_shared import messages as m
from panels_shared.messages import PoolId, Refusal

#: How long a handler waits for a pool to connect, in seconds.
NO_POOL_S: Final = 10.0
#: How long a pool may take to compile a handler, in seconds.
PREPARE_S: Final = 15.0

#: Handlers of new definitions that a pool compiles at a time.
SLOTS: Final = 2
#: How long a subject may have several slots of a pool while another subject waits for one, in seconds.
PATIENCE_S: Final = 1.0

#: The code of the refusal of a handler whose subject has used up its budget.
OVER_BUDGET: Final = "over_budget"
#: What a pool answers that was told to give a handler up.
ABANDONED: Final = "abandoned"
#: Codes of refusals that say something about the pool and not about the handler.
_NOT_REMEMBERED: Final = ("unavailable", "internal", ABANDONED)


@dataclass(frozen=True, slots=True)
class Unblocked:
    """A decision: these lanes need not wait for handler ``digest`` any longer.

    With a ``refusal``, those whose next run needs that handler cannot run it.
    """

    lanes: tuple[Lane, ...]
    digest: bytes
    refusal: Refusal | None


def key_of(digest: bytes, label: str) -> Key:
    """What ``take_prepared`` calls the handler ``digest`` for panels with ``label``: its digest if "" is
    the label."""
    return digest + label.encode()


@dataclass(slots=True)
class _Wanted:
    """A handler that a definition waits for: since when, for which label, and who asked."""

    handler: Handler
    label: str
    since_s: float
    subjects: dict[str, None] = field(default_factory=dict)


class Preparations:
    """The handlers that are being prepared by the pools of ``fleet``. Times are monotonic seconds.

    Bounds: handlers are those of panels that exist or are being made; a lane waits for a handler at most
    once; an answer waits for the next ``take_prepared``. Nothing waits for ever: a handler is given up
    ``NO_POOL_S`` after it was wanted while no pool is connected, and ``PREPARE_S`` after a pool was asked.
    """

    __slots__ = ("_answers", "_blocked", "_catalog", "_fleet", "_making", "_queue", "_taken_back", "_wanted")

    def __init__(self, fleet: Fleet, catalog: HandlerCatalog, limits: CompileLimits | None = None) -> None:
        self._fleet = fleet
        self._catalog = catalog
        self._queue = CompileQueue(limits or CompileLimits())
        self._wanted: dict[Key, _Wanted] = {}
        self._blocked: dict[tuple[PoolId, bytes], dict[Lane, None]] = {}
        #: what takes up slots, oldest first, and whose turn it was
        self._making: dict[tuple[PoolId, bytes], str] = {}
        self._taken_back: set[tuple[PoolId, bytes]] = set()
        self._answers: list[tuple[Key, Refusal | None]] = []

    # -- whoever makes a panel -----------------------------------------------------------------------

    def prepare(
        self, handler: Handler, now: float, *, subject: str = "", label: str = ""
    ) -> Refusal | Preparation:
        """Whether the handler can be run by workers with ``label``, "" for those without any. PENDING is
        followed by its ``key_of`` in ``take_prepared``, once for all who asked.

        The pool is asked by the next ``drain``, so the caller sees to it that one comes soon. The refusal
        ``OVER_BUDGET`` says that ``subject`` has used up its CPU seconds; see ``retry_after_s``.
        """
        digest = handler.digest
        refusal = self._catalog.refusal(digest)
        if refusal is not None:
            return refusal
        pools = self._serving(label)
        if any(digest in pool.prepared for pool in pools):
            return Preparation.READY
        key = key_of(digest, label)
        used = self._catalog.get(digest) is not None
        if key not in self._wanted and not used and self.retry_after_s(subject, now):
            return _over_budget()
        wanted = self._wanted.get(key)
        if wanted is None:
            wanted = self._wanted[key] = _Wanted(handler, label, now)
        wanted.subjects[subject] = None
        if any(digest in pool.preparing for pool in pools):
            return Preparation.PENDING
        if used and pools:
            _ask(min(pools, key=_load), handler, now)
        else:
            self._queue.add(subject, key, label)
            self._fill(now)
        return Preparation.PENDING

    @property
    def wanted(self) -> int:
        """Handlers that definitions wait for."""
        return len(self._wanted)

    def retry_after_s(self, subject: str, now: float) -> float:
        """When the subject may have handlers compiled again, in seconds; 0 while it may."""
        return self._queue.retry_after_s(subject, now)

    def abandon(self, digest: bytes, now: float, *, label: str = "") -> None:
        """No definition waits for the handler any more."""
        if self._wanted.pop(key_of(digest, label), None) is None:
            return
        self._queue.discard(key_of(digest, label))
        for pool in self._serving(label):
            if (pool.id, digest) in self._making and not self._blocked.get((pool.id, digest)):
                self._take_back(pool, digest)
        self._fill(now)

    def take_prepared(self) -> list[tuple[Key, Refusal | None]]:
        """What ``prepare`` was asked for and has ended since the last call, with None where it succeeded.

        The refusal ``unavailable`` says that no pool compiled the handler in time; asking again may help.
        """
        answers, self._answers = self._answers, []
        return answers

    # -- lanes ---------------------------------------------------------------------------------------

    def block(self, lane: Lane, pool: Pool, digest: bytes, now: float) -> None:
        """Has the lane, which is in no ring, wait until ``pool`` has prepared ``digest``.

        The handler of a panel was compiled before, and is in the pool's cache most likely: it takes up no
        slot.
        """
        self._blocked.setdefault((pool.id, digest), {})[lane] = None
        if digest not in pool.preparing:
            handler = self._catalog.get(digest)
            if handler is not None:
                _ask(pool, handler, now)

    def unblock(self, lane: Lane) -> None:
        """The lane leaves its worker, and waits for nothing there."""
        for waiting in self._blocked.values():
            waiting.pop(lane, None)

    # -- pools ---------------------------------------------------------------------------------------

    def pool_connected(self, now: float) -> None:
        """A pool was added to the fleet: what is wanted, and nobody prepares, is asked of it."""
        self._fill(now)

    def pool_lost(self, pool: Pool, now: float) -> list[Lane]:
        """The pool was removed from the fleet: others are asked. Returns the lanes that waited for it."""
        for digest in pool.preparing:
            self._making.pop((pool.id, digest), None)
            self._taken_back.discard((pool.id, digest))
            self._want_again(pool, digest)
        self._fill(now)
        keys = [key for key in self._blocked if key[0] == pool.id]
        return [lane for key in keys for lane in self._blocked.pop(key)]

    def prepared(self, pool_id: PoolId, message: m.Prepared, now: float) -> Unblocked | None:
        """A pool answers. None when it is not a pool that was asked, and nothing changes then."""
        pool = self._fleet.pools.get(pool_id)
        digest = message.digest
        since = None if pool is None else pool.preparing.pop(digest, None)
        if pool is None or since is None:
            return None
        pool.liveness.heard(now)
        self._taken_back.discard((pool_id, digest))
        refusal = message.refusal
        if refusal is None:
            pool.prepared.add(digest)
        elif refusal.code not in _NOT_REMEMBERED:
            self._catalog.refuse(digest, refusal)
        if refusal is not None and refusal.code == ABANDONED:
            # for nobody, or for somebody who can wait: whoever wants it now has it compiled after all
            refusal = None
            self._want_again(pool, digest)
        else:
            self._answer_all(pool, digest, refusal)
        self._charge((pool_id, digest), min(message.cpu_ms / 1_000, now - since), now)
        self._fill(now)
        return Unblocked(tuple(self._blocked.pop((pool_id, digest), ())), digest, refusal)

    def expire(self, now: float) -> list[Lane]:
        """Gives up what has taken too long. Returns the lanes that waited for it, which may ask again."""
        for key, wanted in list(self._wanted.items()):
            if now - wanted.since_s > NO_POOL_S and not self._serving(wanted.label):
                self._answer(key, Refusal("unavailable", _nobody(wanted.label)))
        lanes: list[Lane] = []
        for pool in self._fleet.pools.values():
            for digest, since in [each for each in pool.preparing.items() if now - each[1] > PREPARE_S]:
                del pool.preparing[digest]
                self._taken_back.discard((pool.id, digest))
                self._answer_all(
                    pool, digest, Refusal("unavailable", "the worker did not compile it in time")
                )
                self._charge((pool.id, digest), now - since, now)
                lanes += self._blocked.pop((pool.id, digest), ())
        if self._wanted:
            self._make_room(now)
            self._fill(now)
        return lanes

    # -- slots ---------------------------------------------------------------------------------------

    def _serving(self, label: str) -> list[Pool]:
        return [pool for pool in self._fleet.pools.values() if label in pool.labels]

    def _slots(self, pool: Pool) -> dict[bytes, str]:
        """What takes up the pool's slots, oldest first, and whose turn it was."""
        return {digest: subject for (pool_id, digest), subject in self._making.items() if pool_id == pool.id}

    def _fill(self, now: float) -> None:
        """Has pools with free slots compile what is next, one each in turn."""
        pools = list(self._fleet.pools.values())
        while pools:
            pools.sort(key=_load)
            for pool in list(pools):
                taken = self._queue.take(pool.labels) if len(self._slots(pool)) < SLOTS else None
                if taken is None:
                    pools.remove(pool)
                    continue
                subject, key = taken
                wanted = self._wanted[key]
                digest = wanted.handler.digest
                if digest not in pool.preparing:
                    self._making[pool.id, digest] = subject
                    _ask(pool, wanted.handler, now)

    def _make_room(self, now: float) -> None:
        """Takes a slot from a subject that has several, for one that waits and has none."""
        busy = set(self._making.values())
        for pool in self._fleet.pools.values():
            slots = self._slots(pool)
            if len(slots) < SLOTS or not self._queue.waits(pool.labels, without=busy):
                continue
            digest, subject = next(reversed(slots.items()))
            several = list(slots.values()).count(subject) > 1
            if several and now - pool.preparing[digest] > PATIENCE_S:
                self._take_back(pool, digest)

    def _take_back(self, pool: Pool, digest: bytes) -> None:
        if (pool.id, digest) not in self._taken_back:
            self._taken_back.add((pool.id, digest))
            pool.outbox.append(m.Abandon(digest))

    def _want_again(self, pool: Pool, digest: bytes) -> None:
        for label in pool.labels:
            key = key_of(digest, label)
            wanted = self._wanted.get(key)
            for subject in wanted.subjects if wanted is not None else ():
                self._queue.add(subject, key, label)

    def _charge(self, slot: tuple[PoolId, bytes], seconds: float, now: float) -> None:
        subject = self._making.pop(slot, None)
        if subject is None:
            return
        self._queue.charge(subject, seconds, now)
        if self._queue.retry_after_s(subject, now):
            for key in self._queue.leave(subject):
                if len(self._wanted[key].subjects) == 1:
                    self._answer(key, _over_budget())

    def _answer_all(self, pool: Pool, digest: bytes, refusal: Refusal | None) -> None:
        for label in pool.labels:
            self._answer(key_of(digest, label), refusal)

    def _answer(self, key: Key, refusal: Refusal | None) -> None:
        if self._wanted.pop(key, None) is not None:
            self._queue.discard(key)
            self._answers.append((key, refusal))


def _load(pool: Pool) -> int:
    return len(pool.preparing)


def _over_budget() -> Refusal:
    return Refusal(OVER_BUDGET, "the CPU seconds that you may have handlers compiled for are used up")


def _nobody(label: str) -> str:
    if label:
        return f"no worker with the label {label!r} is connected that could compile it"
    return "no worker is connected that could compile it"


def _ask(pool: Pool, handler: Handler, now: float) -> None:
    pool.preparing[handler.digest] = now
    pool.outbox.append(m.Prepare(handler.digest, handler.language, handler.entry, handler.source))
