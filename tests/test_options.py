"""The options of both programs, side by side: they may stand in one environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from panels_gateway.configuration.options import TABLE as GATEWAY
from panels_shared.options import OptionTable
from panels_worker.config import TABLE as WORKER

OTHERS = {"PANELS_TEST_PROCESSES", GATEWAY.config_variable, WORKER.config_variable}


@pytest.mark.parametrize(("own", "other"), [(GATEWAY, WORKER), (WORKER, GATEWAY)], ids=["gateway", "worker"])
def test_no_program_takes_the_others_variables_for_misspellings(own: OptionTable, other: OptionTable) -> None:
    assert own.mistyped({option.variable for option in other.options} | OTHERS) == []


@pytest.mark.parametrize("table", [GATEWAY, WORKER], ids=["gateway", "worker"])
def test_every_default_is_one_that_could_be_given(table: OptionTable, tmp_path: Path) -> None:
    for option in table.options:
        if option.default is not None:
            raw = str(option.default) if isinstance(option.default, Path) else option.default
            option.parse(raw, source="default", base=tmp_path)


@pytest.mark.parametrize("table", [GATEWAY, WORKER], ids=["gateway", "worker"])
def test_every_dropped_letter_is_noticed(table: OptionTable) -> None:
    known = {option.variable for option in table.options}
    for name in known:
        for at in range(len("PANELS_"), len(name)):
            wrong = name[:at] + name[at + 1 :]
            if wrong not in known and len(wrong) > len("PANELS_HOS"):
                assert table.mistyped([wrong]), wrong


@pytest.mark.parametrize("table", [GATEWAY, WORKER], ids=["gateway", "worker"])
def test_help_fits_a_terminal_and_shows_sizes_as_they_are_given(
    table: OptionTable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        table.read(["--help"], {}, directory=Path("/"), read_file=lambda _: b"")
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert out.index("options:") < 1_000
    assert "MiB." in out
    assert "`" not in out
