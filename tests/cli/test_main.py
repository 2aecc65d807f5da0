"""The program: help, usage errors, and how it ends."""

from __future__ import annotations

import json

import pytest
import typer

from panels_cli import __main__ as program
from panels_cli.faults import EXIT_INTERRUPTED, EXIT_REFUSED
from tests.cli.conftest import Terminal


@pytest.mark.parametrize("arguments", [["nonsense"], ["state"], ["ls", "--limit", "0"], ["ls", "--nonsense"]])
def test_usage_errors_are_one_sentence(panels: Terminal, arguments: list[str]) -> None:
    ran = panels(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("panels: ")
    assert ran.err.count("\n") == 1
    shown = panels(*arguments, "--json")
    assert shown.code == 2
    assert json.loads(shown.err)["error"]["code"] == "USAGE"


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), typer.Abort()])
def test_interrupted_command_has_its_exit_code(
    panels: Terminal, monkeypatch: pytest.MonkeyPatch, raised: BaseException
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise raised

    monkeypatch.setattr(program, "app", fail)
    expected = EXIT_INTERRUPTED if isinstance(raised, KeyboardInterrupt) else EXIT_REFUSED
    assert panels("ls").code == expected


def test_console_script_ends_with_the_code(panels: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["panels", "--version"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 0
