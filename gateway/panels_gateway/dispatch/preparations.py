"""Preparations: which handlers are to be compiled, which pool is asked, and which lanes wait for it. Pure.

Making a panel waits for its handlers (``prepare``, ``take_prepared``), and a lane whose worker belongs to a
pool that has not compiled its next handler waits too (``block``). Either way the pool is asked once. What the
end of a preparation means for lanes is returned, for the caller to carry out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from panels_gateway.dispatch.catalog import Handler, HandlerCatalog, Preparation
from panels_gateway.dispatch.fleet import Fleet, Lane, Pool
from panels_shared import messages as m
from panels_shared.messages import PoolId, Refusal

#: How long a handler waits for a pool to connect, in seconds.
NO_POOL_S: Final = 10.0
#: How long a pool may take to compile a handler, in seconds.
PREPARE_S: Final = 15.0

#: Codes of refusals that say something about the pool and not about the handler.
_NOT_REMEMBERED: Final = ("unavailable", "internal")


@dataclass(frozen=True, slots=True)
class Unblocked:
    """A decision: these lanes need not wait for handler ``digest`` any longer.

    With a ``refusal``, those whose next run needs that handler cannot run it.
    """

    lanes: tuple[Lane, ...]
    digest: bytes
    refusal: Refusal | None


class Preparations:
    """The handlers that are being prepared by the pools of ``fleet``. Times are monotonic seconds.

    Bounds: handlers are those of panels that exist or are being made; a lane waits for a handler at most
    once; an answer waits for the next ``take_prepared``. Nothing waits for ever: a handler is given up
    ``NO_POOL_S`` after it was wanted while no pool is connected, and ``PREPARE_S`` after a pool was asked.
    """

    __slots__ = ("_answers", "_blocked", "_catalog", "_fleet", "_wanted")

    def __init__(self, fleet: Fleet, catalog: HandlerCatalog) -> None:
        self._fleet = fleet
        self._catalog = catalog
        self._wanted: dict[bytes, tuple[Handler, float]] = {}
        self._blocked: dict[tuple[PoolId, bytes], dict[Lane, None]] = {}
        self._answers: list[tuple[bytes, Refusal | None]] = []

    # -- whoever makes a panel -----------------------------------------------------------------------

    def prepare(self, handler: Handler, now: float) -> Refusal | Preparation:
        """Whether the handler can be run. PENDING is followed by its digest in ``take_prepared``, once for
        all who asked.

        The pool is asked by the next ``drain``, so the caller sees to it that one comes soon.
        """
        refusal = self._catalog.refusal(handler.digest)
        if refusal is not None:
            return refusal
        if any(handler.digest in pool.prepared for pool in self._fleet.pools.values()):
            return Preparation.READY
        self._wanted.setdefault(handler.digest, (handler, now))
        self._request(handler, now)
        return Preparation.PENDING

    def take_prepared(self) -> list[tuple[bytes, Refusal | None]]:
        """The digests whose preparation has ended since the last call, with None where it succeeded.

        The refusal ``unavailable`` says that no pool compiled the handler in time; asking again may help.
        """
        answers, self._answers = self._answers, []
        return answers

    # -- lanes ---------------------------------------------------------------------------------------

    def block(self, lane: Lane, pool: Pool, digest: bytes, now: float) -> None:
        """Has the lane, which is in no ring, wait until ``pool`` has prepared ``digest``."""
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
        for handler, _ in self._wanted.values():
            self._request(handler, now)

    def pool_lost(self, pool: Pool, now: float) -> list[Lane]:
        """The pool was removed from the fleet: others are asked. Returns the lanes that waited for it."""
        for digest in pool.preparing:
            if (wanted := self._wanted.get(digest)) is not None:
                self._request(wanted[0], now)
        keys = [key for key in self._blocked if key[0] == pool.id]
        return [lane for key in keys for lane in self._blocked.pop(key)]

    def prepared(self, pool_id: PoolId, message: m.Prepared, now: float) -> Unblocked | None:
        """A pool answers. None when it is not a pool that was asked, and nothing changes then."""
        pool = self._fleet.pools.get(pool_id)
        digest = message.digest
        if pool is None or pool.preparing.pop(digest, None) is None:
            return None
        pool.liveness.heard(now)
        refusal = message.refusal
        if refusal is None:
            pool.prepared.add(digest)
        elif refusal.code not in _NOT_REMEMBERED:
            self._catalog.refuse(digest, refusal)
        self._answer(digest, refusal)
        return Unblocked(tuple(self._blocked.pop((pool_id, digest), ())), digest, refusal)

    def expire(self, now: float) -> list[Lane]:
        """Gives up what has taken too long. Returns the lanes that waited for it, which may ask again."""
        if not self._fleet.pools:
            late = [digest for digest, (_, since) in self._wanted.items() if now - since > NO_POOL_S]
            for digest in late:
                self._answer(digest, Refusal("unavailable", "no worker is connected that could compile it"))
        lanes: list[Lane] = []
        for pool in self._fleet.pools.values():
            for digest in [digest for digest, since in pool.preparing.items() if now - since > PREPARE_S]:
                del pool.preparing[digest]
                self._answer(digest, Refusal("unavailable", "the worker did not compile it in time"))
                lanes += self._blocked.pop((pool.id, digest), ())
        return lanes

    def _answer(self, digest: bytes, refusal: Refusal | None) -> None:
        if self._wanted.pop(digest, None) is not None:
            self._answers.append((digest, refusal))

    def _request(self, handler: Handler, now: float) -> None:
        """Asks the pool with the least to prepare, unless some pool has been asked."""
        pools = self._fleet.pools.values()
        if pools and not any(handler.digest in pool.preparing for pool in pools):
            _ask(min(pools, key=lambda pool: len(pool.preparing)), handler, now)


def _ask(pool: Pool, handler: Handler, now: float) -> None:
    pool.preparing[handler.digest] = now
    pool.outbox.append(m.Prepare(handler.digest, handler.language, handler.entry, handler.source))
