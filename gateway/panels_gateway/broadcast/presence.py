"""Who watches a panel: the subjects of its clients, and how many clients each has. Pure.

    arrived, left ──▶ counts ──▶ whole: for a client that begins to listen, and for handlers
                         └─────▶ change: for those who listen, some time after anything changed

Presence is no state of the panel: it has no version, is in no record of its own, and is gone with the
gateway. What a client is told may be told twice: a change says how many clients a subject has now.
"""

from __future__ import annotations

from typing import Final

import msgspec

#: Subjects that are named. Those who come later are counted among all clients, and named when there is room.
MAX_SUBJECTS: Final = 256
#: Subjects that one change names; above it all are told.
MAX_CHANGED: Final = 256

_encode = msgspec.json.Encoder().encode


class Presence:
    """See the module's docstring. ``clients`` counts all, those without a subject too."""

    __slots__ = ("_changed", "_dirty", "_others", "_shown", "clients")

    def __init__(self) -> None:
        self.clients = 0
        self._shown: dict[str, int] = {}
        self._others: dict[str, int] = {}
        #: whose number has changed since ``change``; None where that is so many that all are told
        self._changed: set[str] | None = set()
        self._dirty = False

    def arrived(self, subject: str | None) -> None:
        """One more client."""
        self.clients += 1
        self._dirty = True
        if subject is None:
            return
        if (
            subject in self._shown or len(self._shown) < MAX_SUBJECTS
        ):  # there is no room while there are others
            self._shown[subject] = self._shown.get(subject, 0) + 1
            self._note(subject)
        else:
            self._others[subject] = self._others.get(subject, 0) + 1

    def left(self, subject: str | None) -> None:
        """One client less, that had arrived as ``subject``."""
        self.clients -= 1
        self._dirty = True
        if subject is None:
            return
        counts = self._shown if subject in self._shown else self._others
        counts[subject] -= 1
        if not counts[subject]:
            del counts[subject]
        if counts is self._shown:
            self._note(subject)
            if subject not in counts and self._others:
                following = next(iter(self._others))
                counts[following] = self._others.pop(following)
                self._note(following)

    def _note(self, subject: str) -> None:
        if self._changed is not None:
            self._changed.add(subject)
            if len(self._changed) > MAX_CHANGED:
                self._changed = None

    def subjects(self) -> bytes:
        """The subjects with the number of their clients, as a JSON object."""
        return _encode(self._shown)

    def whole(self) -> bytes:
        """PRESENCE with all subjects."""
        return b'{"type":"PRESENCE","clients":%d,"subjects":%b,"whole":true}' % (
            self.clients,
            self.subjects(),
        )

    def change(self) -> bytes | None:
        """PRESENCE with what has changed since this was called last, 0 for a subject that is gone, or with
        all subjects; None where nothing has changed.
        """
        if not self._dirty:
            return None
        changed, self._changed, self._dirty = self._changed, set(), False
        if changed is None:
            return self.whole()
        counts = {subject: self._shown.get(subject, 0) for subject in sorted(changed)}
        return b'{"type":"PRESENCE","clients":%d,"subjects":%b}' % (self.clients, _encode(counts))
