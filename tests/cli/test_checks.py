"""What doctor makes of what it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from typing import Any

import jwt
import pytest

from panels_cli import checks
from panels_cli.checks import Finding, Sandbox
from panels_cli.gauges import parse
from panels_shared import __version__

STATUS = (
    "Name:\tsandbox ready\nUid:\t0\t65534\t0\t0\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"
)
GOOD = Sandbox(1, 2, True, 0, 1000)


def minted(**claims: object) -> str:
    return jwt.encode(claims, "s" * 32, algorithm="HS256")


def levels(report: Mapping[str, Any]) -> list[str]:
    return [finding.level for finding in checks.health({"version": __version__, **report})]


def test_health_is_judged() -> None:
    assert levels({"status": "ready", "durability": "process", "problems": []}) == ["ok"]
    assert levels({"status": "ready", "durability": "none", "problems": []}) == ["ok", "warning"]
    assert levels({"status": "ready", "problems": ["the folding process is down"]}) == ["ok", "warning"]
    problems = ["no worker is connected", "the gateway is shutting down", "9 bytes wait to be folded"]
    found = list(checks.health({"status": "unavailable", "version": "0.0", "problems": problems}))
    assert [finding.level for finding in found] == ["wrong", "wrong", "wrong", "warning"]
    assert all(finding.mend for finding in found)
    assert levels({"status": "unavailable"}) == ["wrong"]


def test_workers_are_counted() -> None:
    assert checks.workers("x 1\npanels_workers 2\n").text == "2 sandboxes connected"
    assert checks.workers("panels_workers 0\n").level == "wrong"
    assert "start a pool" in checks.workers("panels_workers 0\npanels_bus_hellos_refused_total 0\n").mend
    assert "bus key" in checks.workers("panels_workers 0\npanels_bus_hellos_refused_total 24\n").mend
    assert checks.workers("").level == "warning"


def of_handlers(*lines: str) -> list[Finding]:
    return list(checks.handlers(parse("\n".join(lines), 0.0)))


def test_panels_that_keep_failing_are_named_where_metrics_name_them() -> None:
    others = 'panels_panel_failures{panel="(others)"} 3'
    (quiet,) = of_handlers(others, 'panels_panel_failures{panel="a"} 9')
    assert quiet.level == "ok"
    (found,) = of_handlers(
        others, 'panels_panel_failures{panel="a"} 9', 'panels_panel_failures{panel="b"} 1200'
    )
    assert (found.level, found.mend) == ("warning", "panels logs b shows why")
    assert found.text.endswith("1,200 of b, 9 of a, 3 of (others)")


def test_failures_are_told_where_metrics_name_no_panels() -> None:
    total, failed = "panels_triggers_total 1000", 'panels_triggers_failed_total{reason="%s"} %d'
    assert [each.level for each in of_handlers(total, failed % ("TRAP", 99))] == ["ok"]
    assert [each.level for each in of_handlers("panels_triggers_total 20", failed % ("TRAP", 9))] == ["ok"]
    (found,) = of_handlers(total, failed % ("TRAP", 40), failed % ("HANDLER_ERROR", 60))
    assert found.level == "warning"
    assert (
        found.text == "100 of 1,000 triggers since the gateway started have failed, most with HANDLER_ERROR"
    )


def test_suspended_tools_are_told() -> None:
    first, second = of_handlers("panels_circuits_open 1")
    assert (first.what, first.level, second.level) == ("circuits", "warning", "ok")
    assert first.text.startswith("1 tool is suspended")
    assert of_handlers("panels_circuits_open 2")[0].text.startswith("2 tools are suspended")
    assert [each.what for each in of_handlers("panels_circuits_open 0")] == ["handlers"]


def test_sandbox_is_read_from_proc() -> None:
    assert checks.sandbox_of(7, STATUS) == Sandbox(7, 2, True, 0, 65534)
    assert checks.sandbox_of(7, "Name:\tx\n") is None


@pytest.mark.parametrize(
    "bad",
    [
        Sandbox(9, 0, True, 0, 1),
        Sandbox(9, 2, False, 0, 1),
        Sandbox(9, 2, True, 1, 1),
        Sandbox(9, 2, True, 0, 0),
    ],
)
def test_sandbox_that_is_not_locked_in_is_named(bad: Sandbox) -> None:
    (found,) = checks.confinement([GOOD, bad])
    assert found.level == "wrong"
    assert found.text.endswith(": 9")
    assert [finding.level for finding in checks.confinement([GOOD])] == ["ok"]
    assert [finding.level for finding in checks.confinement([])] == ["ok"]


def test_clocks_are_compared() -> None:
    assert checks.clock(formatdate(1000, usegmt=True), 1004.0).level == "ok"
    assert "10 s ahead" in checks.clock(formatdate(1000, usegmt=True), 1010.0).text
    assert "10 s behind" in checks.clock(formatdate(1000, usegmt=True), 990.0).text
    assert checks.clock(None, 0).level == "warning"


def test_tokens_are_judged_by_their_claims() -> None:
    assert checks.token(None, 0).level == "ok"
    assert checks.token("a.b.c", 0).level == "wrong"
    assert checks.token("abc", 0).level == "wrong"
    for claims, level in (
        ({"exp": 2000, "sub": "ann"}, "ok"),
        ({"exp": 1100}, "warning"),
        ({"exp": 900}, "wrong"),
        ({}, "wrong"),
        ({"exp": 2000, "iat": 1100}, "wrong"),
        ({"exp": 1_000_000}, "warning"),
    ):
        assert checks.token(minted(**claims), 1000).level == level, claims


def test_this_machine_is_known_by_its_names() -> None:
    assert [checks.is_loopback(f"http://{h}") for h in ("localhost:1", "127.0.0.9", "[::1]:3", "h")] == [
        True, True, True, False,
    ]  # fmt: skip


def test_a_trigger_that_was_not_run_is_wrong_and_an_older_gateway_says_nothing_of_it() -> None:
    assert [finding.level for finding in checks.ready(200, {"status": "ready"})] == ["ok"]
    (finding,) = checks.ready(503, {"status": "unavailable", "reason": "the queue of the gateway is full"})
    assert (finding.level, finding.text) == ("wrong", "the queue of the gateway is full")
    (finding,) = checks.ready(503, None)
    assert finding.text == "a trigger of the gateway's own was not run"
    assert list(checks.ready(404, {})) == []
