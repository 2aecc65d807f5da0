"""Prepares handlers: keeps compile children, a few at a time, and answers every request.

Queue: requests that wait for a child. Unit: handlers. Bound: ``max_waiting``. Overflow policy: the newest is
refused as ``unavailable``, and that refusal is not remembered. Refusals that hold for a handler are
remembered, the latest ``MAX_REMEMBERED`` of them.

The owner polls: ``filenos`` become readable when a child has ended, and ``next_deadline`` says when to look
again.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections import OrderedDict, deque
from typing import Final

from panels_shared.messages import MAX_CPU_MS, Prepare, Refusal
from panels_worker.artifacts import Artifact, ArtifactStore, Kind
from panels_worker.compiling.child import CompileChild, Jail, Request
from panels_worker.javascript.engines import PREVIOUS, QUICKJS, TRANSFORM, carried, engine_digest

logger = logging.getLogger("panels.worker.compiling")

MAX_REMEMBERED: Final = 4_096

#: The engines that a language's handlers are checked in.
_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "javascript": (QUICKJS,),
    "typescript": (QUICKJS, TRANSFORM),
}

Answer = tuple[bytes, Refusal | None]
"""A digest, and None for a handler that is prepared."""


class Compiler:
    """Prepares handlers into ``store``. Times are monotonic seconds, given by the owner.

    Every ``submit`` is answered by one ``collect``; requests for the same digest that overlap share one
    answer. Call ``close`` at the end.
    """

    def __init__(
        self,
        store: ArtifactStore,
        *,
        max_children: int = 2,
        max_waiting: int = 1_024,
        jail: Jail | None = None,
    ) -> None:
        self._store = store
        self._jail = jail
        self._max_children = max_children
        self._max_waiting = max_waiting
        self._waiting: deque[Request] = deque()
        #: compiled engines, as descriptors of files in memory that children may read
        self._engines: dict[str, int] = {}
        self._children: dict[int, CompileChild] = {}
        self._refused: OrderedDict[bytes, Refusal] = OrderedDict()
        self._answers: list[Answer] = []
        #: CPU milliseconds of the children behind the answers that have not been collected
        self._costs_ms: dict[bytes, int] = {}

    @property
    def pinned(self) -> frozenset[bytes]:
        """The digests of the script engines. Sandboxes load them from the store, which must therefore keep
        them.
        """
        return frozenset(engine_digest(name) for name in (*carried(), TRANSFORM))

    def warm(self, now_s: float) -> None:
        """Prepares the script engines, so that the first script need not wait for them."""
        if PREVIOUS in carried():
            self._want_engine(PREVIOUS)  # the last of the three, since each goes to the front of the queue
        for name in (TRANSFORM, QUICKJS):
            self._want_engine(name)
        self._start(now_s)

    def submit(self, prepare: Prepare, now_s: float) -> None:
        """Takes a request. ``collect`` returns its answer, by the next call if it is known already."""
        request = Request(prepare.digest, prepare.language, prepare.entry, prepare.source)
        digest = request.digest
        for name in _NEEDS.get(request.language, ()):
            self._want_engine(name)
        if (refusal := self._refused.get(digest)) is not None:
            self._answers.append((digest, refusal))
        elif self._has_engines(request.language) and self._store.get(digest) is not None:
            # without its engine, as after an upgrade, no sandbox could run what is there
            self._answers.append((digest, None))
        elif not self._is_underway(digest):
            if len(self._waiting) >= self._max_waiting:
                text = "too many handlers wait to be compiled; try again"
                self._answers.append((digest, Refusal("unavailable", text)))
            else:
                self._waiting.append(request)
        self._start(now_s)

    def abandon(self, digest: bytes) -> None:
        """Nobody wants the answer to a request any more: it is ``abandoned``, unless there is one already."""
        refusal = Refusal("abandoned", "nobody waits for it any more")
        for request in self._waiting:
            if request.digest == digest:
                self._waiting.remove(request)
                self._answers.append((digest, refusal))
                return
        for pidfd, child in list(self._children.items()):
            if child.request.digest == digest:
                del self._children[pidfd]
                child.close()
                self._costs_ms[digest] = child.cost_ms
                self._answers.append((digest, refusal))
                return

    def take_cost_ms(self, digest: bytes) -> int:
        """The CPU milliseconds behind an answer that was collected, once; 0 for one that was known."""
        return min(MAX_CPU_MS, self._costs_ms.pop(digest, 0))

    def collect(self, now_s: float) -> list[Answer]:
        """The answers that are ready. Kills children that have run out of time."""
        for pidfd, child in list(self._children.items()):
            if child.finished(now_s):
                del self._children[pidfd]
                try:
                    self._finish(child)
                finally:
                    child.close()
        self._start(now_s)
        answers, self._answers = self._answers, []
        return answers

    def filenos(self) -> list[int]:
        """Descriptors that become readable when a child has ended."""
        return list(self._children)

    def next_deadline(self) -> float | None:
        """When ``collect`` is to be called at the latest; None for no time."""
        return min((child.deadline_s for child in self._children.values()), default=None)

    def close(self) -> None:
        """Kills the children and closes every descriptor."""
        for child in self._children.values():
            child.close()
        self._children.clear()
        for descriptor in self._engines.values():
            os.close(descriptor)
        self._engines.clear()

    def _is_underway(self, digest: bytes) -> bool:
        return any(child.request.digest == digest for child in self._children.values()) or any(
            request.digest == digest for request in self._waiting
        )

    def _start(self, now_s: float) -> None:
        while len(self._children) < self._max_children and (request := self._next()) is not None:
            engines = {name: self._engines[name] for name in _NEEDS.get(request.language, ())}
            try:
                child = CompileChild(request, engines, now_s, self._jail)
            except OSError:
                logger.exception("a compile child could not be started")
                self._refuse(request, Refusal("unavailable", "the compiler could not be started"))
            else:
                self._children[child.pidfd] = child

    def _next(self) -> Request | None:
        """The first request whose engines are there, taken out of the queue."""
        for at, request in enumerate(self._waiting):
            if self._has_engines(request.language):
                del self._waiting[at]
                return request
        return None

    def _finish(self, child: CompileChild) -> None:
        request, verdict = child.request, child.verdict()
        if not request.engine:
            self._costs_ms[request.digest] = child.cost_ms
        if verdict.refusal is not None:
            self._refuse(request, verdict.refusal, lasting=verdict.lasting)
        elif verdict.artifact is not None:
            try:
                self._store.put(request.digest, verdict.artifact)
            except (OSError, ValueError) as exc:
                logger.error("artifact %s could not be written: %s", request.digest.hex(), exc)
                self._refuse(request, Refusal("unavailable", "the compiled handler could not be stored"))
            else:
                self._accept(request)

    def _accept(self, request: Request) -> None:
        if not request.engine:
            self._answers.append((request.digest, None))
        elif not self._load_engine(request.engine, request.digest):
            self._give_up_engine(request.engine, "it cannot be read back")

    def _refuse(self, request: Request, refusal: Refusal, *, lasting: bool = False) -> None:
        if request.engine:
            self._give_up_engine(request.engine, refusal.message)
            return
        if lasting:
            self._refused[request.digest] = refusal
            if len(self._refused) > MAX_REMEMBERED:
                self._refused.popitem(last=False)
        self._answers.append((request.digest, refusal))

    # -- script engines ------------------------------------------------------------------------------

    def _has_engines(self, language: str) -> bool:
        return all(name in self._engines for name in _NEEDS.get(language, ()))

    def _want_engine(self, name: str) -> None:
        """Makes an engine available, here and in the store: by loading it, or by compiling it first."""
        digest = engine_digest(name)
        if name in self._engines:
            self._keep_engine(name, digest)
        elif not self._is_underway(digest) and not self._load_engine(name, digest):
            self._waiting.appendleft(Request(digest, "engine", name, b""))

    def _load_engine(self, name: str, digest: bytes) -> bool:
        artifact = self._store.get(digest)
        if artifact is None:
            return False
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(artifact.payload)
        # children share it: none of them may change it
        fcntl.fcntl(
            descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        )
        self._engines[name] = descriptor
        return True

    def _keep_engine(self, name: str, digest: bytes) -> None:
        """Writes an engine to the store again that somebody else removed: without it no sandbox runs a
        script.
        """
        if self._store.holds(digest):
            return
        descriptor = self._engines[name]
        payload = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        try:
            self._store.put(digest, Artifact(Kind.MODULE, payload))
        except OSError as exc:
            logger.error("the script engine %s could not be written: %s", name, exc)

    def _give_up_engine(self, name: str, why: str) -> None:
        logger.error("the script engine %s cannot be compiled: %s", name, why)
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            if name in _NEEDS.get(request.language, ()):
                refusal = Refusal("unavailable", "the script engine could not be prepared")
                self._answers.append((request.digest, refusal))
            else:
                self._waiting.append(request)
