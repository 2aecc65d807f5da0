"""What the core tells its shell to do, in order. What applications see is frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from panels_client.calls import Result
from panels_client.errors import PanelsClientError
from panels_client.messages import Event, Presence, Progress

Status = Literal["connecting", "live", "reconnecting", "closed"]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A line of ``panel.log``. ``at`` is the time by the core's clock, in seconds."""

    at: float
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Notice:
    """What a new connection means for who uses the panel.

    ``recovered``: nothing was missed. ``resynced``: the whole state came; events may have been missed.
    ``lost``: the same, and it is another history: calls that were sent have no answer.
    """

    kind: Literal["recovered", "resynced", "lost"]
    seq: int


@dataclass(slots=True)
class FetchToken:
    """Ask the provider for a token, for this flow."""

    flow: int


@dataclass(slots=True)
class Connect:
    """Ask for the upgrade."""

    flow: int
    asks: dict[str, str]
    token: str | None = field(repr=False)


@dataclass(slots=True)
class Send:
    """Send a text frame."""

    flow: int
    text: str = field(repr=False)


@dataclass(slots=True)
class Drop:
    """Give the flow's attempt or socket up, without waiting for anybody."""

    flow: int
    code: int = 1000


@dataclass(slots=True)
class Settle:
    """A call has its outcome."""

    key: str
    outcome: Result | PanelsClientError


@dataclass(slots=True)
class Report:
    """A call's handler waits."""

    key: str
    progress: Progress


@dataclass(slots=True)
class Changed:
    """The shown values of these keys changed."""

    keys: frozenset[str]


@dataclass(slots=True)
class Happened:
    """An event for the application."""

    event: Event


@dataclass(slots=True)
class Attended:
    """Somebody has come or gone."""

    presence: Presence


@dataclass(slots=True)
class Noticed:
    """A notice for the application."""

    notice: Notice


@dataclass(slots=True)
class Moved:
    """The status is another one now."""

    status: Status


@dataclass(slots=True)
class Noted:
    """A line for the log."""

    entry: LogEntry


Instruction = (
    FetchToken
    | Connect
    | Send
    | Drop
    | Settle
    | Report
    | Changed
    | Happened
    | Attended
    | Noticed
    | Moved
    | Noted
)
