"""The three ranges of endings."""

from __future__ import annotations

from panels_client.endings import of_close, of_refusal


def test_every_close_code_has_one_of_three_verdicts() -> None:
    verdicts = {code: of_close(code) for code in (None, *range(1000, 5000))}
    assert [code for code, verdict in verdicts.items() if verdict.what == "refresh"] == [4401]
    stops = {code for code, verdict in verdicts.items() if verdict.what == "stop"}
    assert stops == set(range(4400, 4500)) - {4401}
    assert all(verdict.reason for verdict in verdicts.values() if verdict.what == "stop")


def test_every_status_has_one_of_three_verdicts() -> None:
    verdicts = {status: of_refusal(status) for status in range(300, 600)}
    assert [status for status, verdict in verdicts.items() if verdict.what == "refresh"] == [401]
    retries = {status for status, verdict in verdicts.items() if verdict.what == "retry"}
    assert retries == {408, 425, 429, *range(500, 600)}
    assert (verdicts[403].reason, verdicts[404].reason) == ("forbidden", "panel_not_found")
