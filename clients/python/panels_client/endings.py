"""How a connection or an upgrade ended, and what the client does about it: retry, refresh or stop."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Verdict:
    """``retry`` resumes after a while. ``refresh`` asks for another token first. ``stop`` ends the client,
    with ``reason``.
    """

    what: Literal["retry", "refresh", "stop"]
    reason: str = ""


#: The reason of 1012.
_ADVICE: Final = re.compile(r"retry in ([0-9]{1,6}) ms", re.ASCII)

RETRY = Verdict("retry")
REFRESH = Verdict("refresh", "unauthorized")


def of_close(code: int | None) -> Verdict:
    """What a close code asks for; None: the socket ended without one.

    4401 asks for a token, all others from 4400 to 4499 end the client, and everything else passes.
    """
    if code == 4401:
        return REFRESH
    if code == 4404:
        return Verdict("stop", "panel_deleted")
    if code == 4403:
        return Verdict("stop", "forbidden")
    if code is not None and 4400 <= code <= 4499:
        return Verdict("stop", "refused")
    return RETRY


def of_refusal(status: int) -> Verdict:
    """What an HTTP status in answer to the upgrade asks for."""
    if status == 401:
        return REFRESH
    if status == 403:
        return Verdict("stop", "forbidden")
    if status == 404:
        return Verdict("stop", "panel_not_found")
    if status in (408, 425, 429) or status >= 500:
        return RETRY
    return Verdict("stop", "refused")


def advice_s(code: int | None, why: str) -> float:
    """When a gateway that restarts wants the client back, in seconds from now; 0.0 where it does not say."""
    told = _ADVICE.fullmatch(why) if code == 1012 else None
    return int(told[1]) / 1_000 if told is not None else 0.0
