"""`panels call` against a gateway."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import httpx
import pytest

from panels_cli.api import Api
from panels_cli.commands.calls import wait_for_answer
from panels_cli.context import Context
from panels_cli.output import Output
from tests.cli.conftest import Terminal


def test_answer_is_printed_and_a_key_runs_once(panels: Terminal, panel: str) -> None:
    assert panels("call", panel, "do", '{"set": {"n": 5}}', "--key", "k").out.split() == [
        "{",
        '"set":',
        "{",
        '"n":',
        "5",
        "}",
        "}",
    ]
    again = panels("call", panel, "do", '{"set": {"n": 5}}', "--key", "k", "--json").json
    assert again["seq"] == 1
    other = panels("call", panel, "do", "1", "--key", "k")
    assert other.code == 1
    assert "(CONFLICT)" in other.err


def test_failure_shows_place_and_source_and_no_control_characters(panels: Terminal, panel: str) -> None:
    failed = panels("call", panel, "fail")
    assert failed.code == 1
    assert "fail of p failed at line 3, column 5" in failed.err
    assert "    boom()\n" in failed.err
    assert "\x1b" not in failed.err


def test_arguments_come_from_standard_input(
    panels: Terminal, panel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"[1]\n"), isatty=lambda: False))
    assert panels("call", panel, "do", "-", "--json").json["result"]["returnValue"] == [1]


def test_arguments_that_are_no_json_are_not_sent(panels: Terminal) -> None:
    refused = panels("call", "p", "do", "{x")
    assert refused.code == 2
    assert refused.err.count("\n") == 1


def test_nobody_there_is_told_with_the_key(panels: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("panels_cli.calling.FIRST_WAIT_S", 0.0)
    failed = panels("--url", "http://127.0.0.1:1", "call", "p", "do", "--key", "k1")
    assert failed.code == 3
    assert "--key k1" in failed.err


def test_call_that_waits_is_asked_for_again_under_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    progress = {"type": "PROGRESS", "suspensionId": "s1", "extension": "human", "method": "ask"}
    answers = [
        httpx.Response(202, json=progress),
        httpx.Response(202, json=progress),
        httpx.Response(200, json={}),
    ]
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        return answers.pop(0)

    with Api(Context("http://gateway"), transport=httpx.MockTransport(answer)) as api:
        output = Output(as_json=False, environment={})
        assert wait_for_answer(api, "/p", None, "k", output).status == 200
    assert keys == ["k", "k", "k"]
    assert capsys.readouterr().err.count("waits for human.ask (suspension s1)") == 1
