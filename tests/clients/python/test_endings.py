"""The three ranges of endings."""

from __future__ import annotations

import pytest

from panels_client.endings import advice_s, of_close, of_refusal


def test_every_close_code_has_one_of_three_verdicts() -> None:
    verdicts = {code: of_close(code) for code in (None, *range(1000, 5000))}
    assert [code for code, verdict in verdicts.items() if verdict.what == "refresh"] == [4401]
    stops = {code for code, verdict in verdicts.items() if verdict.what == "stop"}
    assert stops == set(range(4400, 4500)) - {4401}
    assert all(verdict.reason for verdict in verdicts.values() if verdict.what == "stop")


@pytest.mark.parametrize(
    ("code", "why", "seconds"),
    [
        (1012, "retry in 1730 ms", 1.73),
        (1012, "retry in 0 ms", 0.0),
        (1012, "retry in 1234567 ms", 0.0),
        (1012, "retry in ١ ms", 0.0),
        (1012, "", 0.0),
        (1013, "retry in 1730 ms", 0.0),
        (None, "retry in 1730 ms", 0.0),
    ],
)
def test_gateway_that_restarts_says_when_to_come_back(code: int | None, why: str, seconds: float) -> None:
    assert advice_s(code, why) == seconds


def test_every_status_has_one_of_three_verdicts() -> None:
    verdicts = {status: of_refusal(status) for status in range(300, 600)}
    assert [status for status, verdict in verdicts.items() if verdict.what == "refresh"] == [401]
    retries = {status for status, verdict in verdicts.items() if verdict.what == "retry"}
    assert retries == {408, 425, 429, *range(500, 600)}
    assert (verdicts[403].reason, verdicts[404].reason) == ("forbidden", "panel_not_found")
