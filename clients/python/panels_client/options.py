"""The numbers by which a client behaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All times are in seconds."""

    #: Before the first new attempt, and the most; each is twice the one before, less a random part of it.
    backoff_initial_s: float = 0.1
    backoff_max_s: float = 30.0
    backoff_jitter: float = 0.5
    #: A connection that was live for so long begins the back-off anew.
    stable_after_s: float = 5.0
    #: For the upgrade, and then for CONNECTED.
    connect_timeout_s: float = 15.0
    #: For the token provider.
    token_timeout_s: float = 15.0
    #: How often in a row tokens of the provider may be refused before the client ends.
    max_refused_tokens: int = 3
    #: A PING is sent after so long a silence, and what says nothing for so long then is dead.
    ping_after_s: float = 10.0
    pong_timeout_s: float = 10.0
    #: The clock jumped, or the process was suspended, if it is later than expected by this.
    jump_s: float = 5.0
    #: The same, for a connection that is probed after a jump.
    probe_timeout_s: float = 5.0
    #: Calls that have no answer, and how many of them are sent at a time.
    max_calls: int = 1_024
    window: int = 128
    #: A call is not sent again when it was first sent longer ago: the gateway forgets keys after 24 hours.
    key_lifetime_s: float = 23 * 3_600.0
    #: What may be sent and received in one message.
    max_sent_bytes: int = 1024 * 1024
    max_received_bytes: int = 64 * 1024 * 1024
    #: Entries of ``panel.log``.
    log_entries: int = 256
    #: A proxy's URL, True for that of the environment, None for none.
    proxy: str | Literal[True] | None = True
