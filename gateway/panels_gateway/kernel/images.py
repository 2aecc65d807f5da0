"""Whole states as JSON, encoded once for everybody who wants the same one, and bounded in all.

    ask ──(encoded at this version?)── yes ──▶ the same parts, one more holder
              no: encode in steps ──▶ parts ──▶ written to each holder as its socket takes them ──▶ let go

A state of 16 MiB that two hundred clients do not read is kept once. It is in parts, of which a transport has
one at a time, and which never are joined: no step of the loop joins more than about ``BYTES_AT_ONCE`` or
encodes more than ``KEYS_AT_ONCE``.

Queue: images that have a holder, and those that were let go up to ``IDLE_S`` ago. Unit: bytes. Bound:
``maximum``. Overflow policy: those without a holder go; then whoever asks is refused OVERLOADED.

Each image counts for the token subject that had it made. A subject may keep as much as it leaves free, so
that one alone has at most half, ``n`` of them share ``n/(n+1)``, and whoever keeps nothing yet finds room.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from panels_shared.errors import Code, RequestError
from panels_shared.limits import KIB, MIB

if TYPE_CHECKING:
    from collections import deque

    from panels_gateway.journal.records import Changed, Ran
    from panels_gateway.panels.panel import Panel


#: Bytes above which a state or an answer is large: shared, sent in parts, and counted.
LARGE_BYTES: Final = 64 * KIB
#: About how large a part is, and keys that are encoded in one step of the loop.
PART_BYTES: Final = 64 * KIB
KEYS_AT_ONCE: Final = 4_096
#: Bytes of values that are joined in one step of the loop.
BYTES_AT_ONCE: Final = 2 * MIB
#: How long an image without a holder is kept for the next one who asks, in seconds.
IDLE_S: Final = 1.0
#: Versions that an image may be behind where whoever asks is sent what has happened since.
MAX_BEHIND: Final = 64

#: Bytes, or a view of a value that is large itself.
Part = bytes | memoryview

_encode = msgspec.json.Encoder().encode


class Owner(Protocol):
    """A panel in memory, as far as its image goes; see ``Resident``."""

    image: Image | None
    imaging: asyncio.Event | None

    @property
    def panel(self) -> Panel:
        """What it is."""
        ...

    @property
    def tail(self) -> deque[Ran | Changed]:
        """Its last commits."""
        ...


class Image:
    """A state at version ``seq``, in parts that make one JSON object of ``size`` bytes."""

    __slots__ = ("__weakref__", "_release", "holders", "parts", "payer", "seq", "size")

    def __init__(self, seq: int, parts: Sequence[Part], release: Callable[[Image], None], payer: str) -> None:
        self.seq = seq
        self.payer = payer
        self.parts = parts
        self.size = sum(map(len, parts))
        self.holders = 0
        self._release = release

    def hold(self) -> Image:
        """Counts one more holder, who calls ``release`` once."""
        self.holders += 1
        return self

    def release(self) -> None:
        """One holder is done with it."""
        self.holders -= 1
        if not self.holders:
            self._release(self)


class Images:
    """See the module's docstring. ``used_bytes`` is what is kept at the moment.

    A ``payer`` is the token subject of whoever asks, "" for those without one.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.used_bytes = 0
        #: What each subject had made of it.
        self._paid: Counter[str] = Counter()
        #: Images that nobody holds, each with the resident that still shows it, the oldest first.
        self._idle: dict[Image, asyncio.TimerHandle] = {}
        self._owners: dict[Image, Owner] = {}

    async def of(self, resident: Owner, payer: str, *, behind: bool = False) -> Image:
        """The panel's state, held for the caller; as it is now or, with ``behind``, at a version from which
        the resident's tail leads to now.

        Raises ``RequestError`` OVERLOADED.
        """
        while True:
            found = resident.image
            if found is not None and (
                found.seq == resident.panel.seq or (behind and _leads_to_now(resident, found.seq))
            ):
                return self._hold(found)
            if resident.imaging is None:
                break
            await resident.imaging.wait()  # somebody encodes it, though maybe for too old a version
        panel = resident.panel
        size = panel.state_bytes
        self._take(size, payer)
        done = resident.imaging = asyncio.Event()
        try:
            seq = panel.seq
            parts = await encoded(panel.state)
        except BaseException:
            self._give_back(size, payer)
            raise
        finally:
            resident.imaging = None
            done.set()
        image = self._made(seq, parts, size, payer)
        resident.image = image
        self._owners[image] = resident
        return image

    async def once(self, seq: int, state: Mapping[str, bytes], payer: str) -> Image:
        """A state that nobody else will ask for, held for the caller. Raises ``RequestError`` OVERLOADED."""
        return await self.shaped(seq, sum(map(len, state.values())), lambda: encoded(state), payer)

    async def shaped(
        self, seq: int, size: int, shape: Callable[[], Awaitable[Sequence[Part]]], payer: str
    ) -> Image:
        """What ``shape`` makes of a state, about ``size`` bytes, held for the caller.

        Raises ``RequestError`` OVERLOADED, before anything is made.
        """
        self._take(size, payer)
        try:
            parts = await shape()
        except BaseException:
            self._give_back(size, payer)
            raise
        return self._made(seq, parts, size, payer)

    def answer(self, body: bytes, payer: str) -> Image:
        """A large answer, in parts, held for the caller. Raises ``RequestError`` OVERLOADED."""
        self._take(len(body), payer)
        return self._made(0, cut(body), len(body), payer)

    def _made(self, seq: int, parts: Sequence[Part], taken: int, payer: str) -> Image:
        image = Image(seq, parts, self._unheld, payer)
        self.used_bytes += image.size - taken
        self._paid[payer] += image.size - taken
        return image.hold()

    def _hold(self, image: Image) -> Image:
        timer = self._idle.pop(image, None)
        if timer is not None:
            timer.cancel()
        return image.hold()

    def _take(self, size: int, payer: str) -> None:
        while not self._fits(size, payer) and self._idle:
            image = next(iter(self._idle))
            self._idle.pop(image).cancel()
            self._drop(image)
        if not self._fits(size, payer):
            raise RequestError(
                Code.OVERLOADED,
                "large answers that clients have not taken yet fill the memory for them; try again later",
                {"retryAfterMs": 1_000, "scope": "sending"},
            )
        self.used_bytes += size
        self._paid[payer] += size

    def _fits(self, size: int, payer: str) -> bool:
        free = self.maximum - self.used_bytes - size
        paid = self._paid.get(payer, 0)
        return free >= 0 and (not paid or paid + size <= free)

    def _give_back(self, size: int, payer: str) -> None:
        self.used_bytes -= size
        self._paid[payer] -= size
        if not self._paid[payer]:
            del self._paid[payer]

    def _unheld(self, image: Image) -> None:
        owner = self._owners.get(image)
        if owner is None or owner.image is not image:
            self._drop(image)
            return
        self._idle[image] = asyncio.get_running_loop().call_later(IDLE_S, self._expire, image)

    def _expire(self, image: Image) -> None:
        if self._idle.pop(image, None) is not None:
            self._drop(image)

    def _drop(self, image: Image) -> None:
        owner = self._owners.pop(image, None)
        if owner is not None and owner.image is image:
            owner.image = None
        self._give_back(image.size, image.payer)


def _leads_to_now(resident: Owner, seq: int) -> bool:
    tail = resident.tail
    return resident.panel.seq - seq <= MAX_BEHIND and bool(tail) and tail[0].seq <= seq + 1


async def encoded(state: Mapping[str, bytes]) -> list[Part]:
    """A state as one JSON object in parts, encoded in steps; as it is when this is called."""
    items = list(state.items())
    parts: list[Part] = []
    pending: list[bytes] = [b"{"]
    size = stepped = 0
    for number, (key, value) in enumerate(items, 1):
        pending.append(b"%b%b:" % (b"" if number == 1 else b",", _encode(key)))
        if len(value) > PART_BYTES:
            parts.append(b"".join(pending))
            pending, size = [], 0
            parts += cut(value)
        else:
            pending.append(value)
            size += len(value)
        if size >= PART_BYTES:
            stepped += size
            parts.append(b"".join(pending))
            pending, size = [], 0
        if number % KEYS_AT_ONCE == 0 or stepped >= BYTES_AT_ONCE:
            stepped = 0
            await asyncio.sleep(0)
    pending.append(b"}")
    parts.append(b"".join(pending))
    return parts


def cut(data: bytes) -> list[Part]:
    """``data`` in parts, none of which is a copy."""
    view = memoryview(data)
    return [view[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
