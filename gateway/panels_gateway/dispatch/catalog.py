"""The handlers in use by all panels, by digest, with their sources and the refusals that are remembered.
Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from enum import Enum
from typing import Final, Protocol

from panels_shared.messages import Language, Refusal

#: Refusals remembered; a security limit.
MAX_REFUSALS: Final = 4_096


class Handler(Protocol):
    """A handler's source; see ``definition.HandlerSource``."""

    @property
    def language(self) -> Language: ...
    @property
    def entry(self) -> str: ...
    @property
    def source(self) -> bytes: ...
    @property
    def digest(self) -> bytes: ...


class Preparation(Enum):
    """Whether a handler can be run: some pool has prepared it, or it is being prepared."""

    READY = "ready"
    PENDING = "pending"


class HandlerCatalog:
    """Handlers in use, counted by how often, and the refusals of late."""

    def __init__(self) -> None:
        self._handlers: dict[bytes, Handler] = {}
        self._uses: dict[bytes, int] = {}
        self._refusals: OrderedDict[bytes, Refusal] = OrderedDict()

    def acquire(self, handlers: Iterable[Handler]) -> None:
        """Keeps the sources of ``handlers``, once more each."""
        for handler in handlers:
            self._handlers.setdefault(handler.digest, handler)
            self._uses[handler.digest] = self._uses.get(handler.digest, 0) + 1

    def release(self, handlers: Iterable[Handler]) -> None:
        """Undoes one ``acquire``."""
        for handler in handlers:
            left = self._uses.get(handler.digest, 0) - 1
            if left > 0:
                self._uses[handler.digest] = left
            else:
                self._uses.pop(handler.digest, None)
                self._handlers.pop(handler.digest, None)

    def get(self, digest: bytes) -> Handler | None:
        """The source, None when nobody uses it any more."""
        return self._handlers.get(digest)

    def refusal(self, digest: bytes) -> Refusal | None:
        """Why the handler was refused, if it was."""
        return self._refusals.get(digest)

    def refuse(self, digest: bytes, refusal: Refusal) -> None:
        """Remembers a refusal, which is about the handler and would come again."""
        self._refusals[digest] = refusal
        self._refusals.move_to_end(digest)
        if len(self._refusals) > MAX_REFUSALS:
            self._refusals.popitem(last=False)
