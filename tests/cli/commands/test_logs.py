"""`panels logs` against a gateway."""

from __future__ import annotations

import threading

import msgspec
import pytest

from panels_cli.__main__ import run
from panels_shared.outcome import LogLine, Outcome
from tests.cli.conftest import Terminal
from tests.support.gateway import Call, Gateway, completed
from tests.support.system import eventually


def talking(call: Call) -> Outcome:
    lines = tuple(LogLine(level, f"{call.args} \x1b[31m") for level in range(4))
    return msgspec.structs.replace(completed(), log=lines)


def test_logs_are_printed_with_failures_and_end_without_follow(
    panels: Terminal, panel: str, gateway: Gateway
) -> None:
    assert panels("logs", panel, "--no-follow").out == ""
    panels("call", panel, "fail")
    gateway.respond = talking
    panels("call", panel, "do", "1")
    shown = panels("logs", panel, "--no-follow")
    assert shown.code == 0
    words = [line.split("  ", 1)[1] for line in shown.out.splitlines()]
    assert words == [
        "fail  error  HANDLER_ERROR: no\\u001b[31m (line 3, column 5)",
        "do  debug  1 \\u001b[31m",
        "do  info   1 \\u001b[31m",
        "do  warn   1 \\u001b[31m",
        "do  error  1 \\u001b[31m",
    ]
    first = panels("logs", panel, "--no-follow", "--json").out.splitlines()[0]
    assert msgspec.json.decode(first)["reason"] == "HANDLER_ERROR"


def test_logs_go_on_with_what_is_new_and_say_what_is_missing(
    panels: Terminal, panel: str, gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    panels("call", panel, "fail")
    heard = ""
    ended: list[int] = []

    def follow() -> None:
        ended.append(run(("logs", panel, "--json")))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()

    def sees(text: str) -> bool:
        nonlocal heard
        heard += capsys.readouterr().out
        return text in heard

    eventually(lambda: sees("HANDLER_ERROR"), what="the line that was there")
    gateway.respond = talking
    assert run(("call", panel, "do", '"new"', "--json")) == 0
    eventually(lambda: sees('"new '), what="the line that is new")
    assert run(("rm", panel, "--yes", "--json")) == 0
    thread.join(20)
    assert ended == [1]
