"""One job in one instance: bounds-checked access to the guest's memory, and what the job has done so far."""

from __future__ import annotations

from typing import Any, Final

from panels_shared.limits import KIB
from panels_worker.guest.capi import window, write_bytes
from panels_worker.guest.effects import Effects, InvalidValue
from panels_worker.guest.store import Store
from panels_worker.guest.traps import BadPointerError

#: Bytes of a name that are looked at: more than any name may have, less than takes a while to decode.
_MAX_TEXT_BYTES: Final = 64 * KIB


class WasmRun:
    """One job in one instance: the guest's memory and what the job has done."""

    __slots__ = ("base", "effects", "failure", "failure_details", "instance", "memory", "size", "window")

    def __init__(self, effects: Effects) -> None:
        self.effects = effects
        self.failure: str | None = None
        #: what the guest says of its failure to programs: JSON, checked
        self.failure_details = b"{}"
        self.instance: Store | None = None
        self.memory = 0
        self.base = 0
        self.size = 0
        self.window: Any = b""

    def enter(self, store: Store) -> None:
        """Looks at the memory of ``store``'s instance."""
        self.instance = store
        self.memory = store.export(b"memory")
        self.base = store.memory_base(self.memory)
        self.size = store.memory_bytes(self.memory)
        self.window = window(self.base, self.size)

    def read(self, pointer: int, length: int) -> bytes:
        """A copy of guest memory. Raises ``BadPointerError``."""
        pointer &= 0xFFFF_FFFF
        length &= 0xFFFF_FFFF
        end = pointer + length
        if end > self.size:
            self._grown(end)
        return self.window[pointer:end]  # type: ignore[no-any-return]

    def read_value(self, pointer: int, length: int) -> bytes:
        """A copy of a JSON value. Raises ``BadPointerError``, and ``LimitReached`` before it copies too
        much.
        """
        self.check(pointer, length)
        self.effects.check_size(length & 0xFFFF_FFFF)
        return self.read(pointer, length)

    def read_text(self, pointer: int, length: int) -> str:
        """UTF-8 text in guest memory. Raises ``BadPointerError``, ``InvalidValue``."""
        pointer &= 0xFFFF_FFFF
        length &= 0xFFFF_FFFF
        end = pointer + length
        if end > self.size:
            self._grown(end)
        if length > _MAX_TEXT_BYTES:
            raise InvalidValue(f"expected a name of at most {_MAX_TEXT_BYTES} bytes, got {length}")
        try:
            return self.window[pointer:end].decode()  # type: ignore[no-any-return]
        except UnicodeDecodeError:
            raise InvalidValue("expected UTF-8") from None

    def write(self, pointer: int, data: bytes) -> None:
        """Writes into guest memory. Raises ``BadPointerError``."""
        pointer &= 0xFFFF_FFFF
        if pointer + len(data) > self.size:
            self._grown(pointer + len(data))
        write_bytes(self.base + pointer, data, len(data))

    def check(self, pointer: int, length: int) -> None:
        """Raises ``BadPointerError`` unless the range lies in guest memory."""
        pointer &= 0xFFFF_FFFF
        length &= 0xFFFF_FFFF
        if pointer + length > self.size:
            self._grown(pointer + length)

    def _grown(self, end: int) -> None:
        # a memory only ever grows, so the size is asked for again only when it seems too small
        if self.instance is None:
            raise BadPointerError("a host function was called before the instance was complete")
        self.size = self.instance.memory_bytes(self.memory)
        self.window = window(self.base, self.size)
        if end > self.size:
            raise BadPointerError(
                f"expected a range within {self.size} bytes of memory, got one that ends at {end}"
            )
