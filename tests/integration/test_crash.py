"""The short form of ``scripts/crash``: everything acknowledged is there once, whichever process is killed."""

from __future__ import annotations

import pytest

from tests.support.crash import CrashOptions, crash


@pytest.mark.timeout(180)
@pytest.mark.parametrize("durability", ["process", "power"])
def test_clients_lose_nothing_when_processes_are_killed(durability: str) -> None:
    options = CrashOptions(seconds=6.0, seed=11, durability=durability, rooms=2, calls=400, gateway_kills=2)
    crashes = crash(options)
    assert not crashes.violations, "\n".join(crashes.violations)
    assert crashes.counts["SIGKILL gateway"] >= 2
    assert crashes.counts["ran"] > 0
    assert crashes.counts["steps of handlers that wait"] > 0
    assert crashes.counts["recovered"] > 0
