"""Live panels: a state that follows the gateway's, and calls that happen once.

async with connect("ws://127.0.0.1:3001", panel="counter") as panel:
    await panel.call("add", 1)
    print(panel.state["n"])
"""

from panels_client.calls import Pending, Result
from panels_client.connection import Panel, connect
from panels_client.errors import (
    CallError,
    CallTimeoutError,
    ClosedError,
    EventsLostError,
    OutcomeUnknownError,
    PanelsClientError,
    TooManyError,
)
from panels_client.instructions import LogEntry, Notice, Status
from panels_client.messages import Event, Presence, Progress
from panels_client.options import Options
from panels_client.view import DELETED

__all__ = [
    "DELETED",
    "CallError",
    "CallTimeoutError",
    "ClosedError",
    "Event",
    "EventsLostError",
    "LogEntry",
    "Notice",
    "Options",
    "OutcomeUnknownError",
    "Panel",
    "PanelsClientError",
    "Pending",
    "Presence",
    "Progress",
    "Result",
    "Status",
    "TooManyError",
    "connect",
]
