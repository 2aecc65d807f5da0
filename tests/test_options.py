"""The options of both programs, side by side: they may stand in one environment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from panels_gateway.configuration.options import TABLE as GATEWAY
from panels_shared.options import OptionTable
from panels_worker.config import TABLE as WORKER

ANNOTATED = Path(__file__).parents[1] / "docs" / "panels.toml"
OTHERS = {
    "PANELS_TEST_PROCESSES",
    "PANELS_URL",
    "PANELS_TOKEN",
    GATEWAY.config_variable,
    WORKER.config_variable,
}


@pytest.mark.parametrize(("own", "other"), [(GATEWAY, WORKER), (WORKER, GATEWAY)], ids=["gateway", "worker"])
def test_no_program_takes_the_others_variables_for_unknown_ones(own: OptionTable, other: OptionTable) -> None:
    assert own.unknown({other.variable(option) for option in other.options} | OTHERS) == []


@pytest.mark.parametrize("table", [GATEWAY, WORKER], ids=["gateway", "worker"])
def test_every_default_is_one_that_could_be_given(table: OptionTable, tmp_path: Path) -> None:
    for option in table.options:
        if option.default is not None:
            raw = str(option.default) if isinstance(option.default, Path) else option.default
            option.parse(raw, source="default", base=tmp_path)


@pytest.mark.parametrize("table", [GATEWAY, WORKER], ids=["gateway", "worker"])
def test_every_dropped_letter_is_noticed(table: OptionTable) -> None:
    known = {table.variable(option) for option in table.options}
    for name in known:
        for at in range(len(table.prefix), len(name)):
            wrong = name[:at] + name[at + 1 :]
            # the worker names what has its prefix
            if wrong not in known and not wrong.startswith(table.foreign_prefixes or "-"):
                (sentence,) = table.unknown([wrong])
                assert "did you mean" in sentence


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


def test_no_variable_means_one_thing_to_one_program_and_another_to_the_other() -> None:
    own = {GATEWAY.variable(option) for option in GATEWAY.options} | {GATEWAY.config_variable}
    assert own.isdisjoint({WORKER.variable(option) for option in WORKER.options} | {WORKER.config_variable})


def test_workers_variables_without_their_prefix_are_named_unless_the_gateway_has_them() -> None:
    gateways = {GATEWAY.variable(option) for option in GATEWAY.options}
    for option in WORKER.options:
        bare = f"PANELS_{option.key.upper()}"
        said = WORKER.unknown([bare])
        if bare in gateways:
            assert said == []
        else:
            assert said == [f"the variable {bare} is not read; did you mean {WORKER.variable(option)}?"]


def annotated() -> str:
    return GATEWAY.annotated() + "\n" + WORKER.annotated()


def test_annotated_file_is_the_one_that_is_shipped() -> None:
    """After a change of options: (python -m panels_gateway.configuration.options toml; echo; python -m
    panels_worker.config toml) > docs/panels.toml
    """
    assert ANNOTATED.read_text() == annotated()


def test_annotated_file_is_taken_by_both_programs_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "panels.toml"
    file.write_text(annotated())
    for table in (GATEWAY, WORKER):
        read = table.read(["--config", str(file)], {}, directory=tmp_path, read_file=Path.read_bytes)
        assert all(read.given(option.key) is None for option in table.options)


def test_annotated_file_with_every_default_uncommented_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "panels.toml"
    lines = [
        line.removeprefix("# ") if re.match(r"# [a-z][a-z-]* = .", line) else line
        for line in annotated().splitlines()
    ]
    file.write_text("\n".join(lines))
    for table in (GATEWAY, WORKER):
        read = table.read(["--config", str(file)], {}, directory=tmp_path, read_file=Path.read_bytes)
        for option in table.options:
            if option.default is not None:
                given = read.given(option.key)
                assert given is not None, option.name
                assert lines[int(given.rpartition(":")[2]) - 1].startswith(f"{option.name} = ")
                assert option.kind == "path" or read.value(option.key) == option.default


@pytest.mark.parametrize("table", [GATEWAY, WORKER], ids=["gateway", "worker"])
def test_annotated_file_fits_a_terminal(table: OptionTable) -> None:
    assert [line for line in table.annotated().splitlines() if len(line) > 80] == []


def test_printed_configuration_says_where_each_value_came_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "panels.toml"
    file.write_text('port = 1\nallowed-origins = ["https://a.example"]\n\n[worker]\nprocesses = 3\n')
    environment = {"PANELS_CONFIG": str(file), "PANELS_WORKER_CONFIG": str(file), "PANELS_MAX_TOOLS": "7"}
    for table in (GATEWAY, WORKER):
        with pytest.raises(SystemExit) as end:
            table.read(["--print-config"], environment, directory=tmp_path, read_file=Path.read_bytes)
        assert end.value.code == 0
    printed = capsys.readouterr().out
    assert f"port = 1  # from {file}:1" in printed
    assert f'allowed-origins = ["https://a.example"]  # from {file}:2' in printed
    assert "max-tools = 7  # from PANELS_MAX_TOOLS" in printed
    assert f"processes = 3  # from {file}:5" in printed
    assert "# host = " in printed


def test_help_shows_usage_in_one_line_and_ranges(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        GATEWAY.read(["--help"], {}, directory=Path("/"), read_file=Path.read_bytes)
    out = capsys.readouterr().out
    assert out.startswith("usage: panels-gateway [COMMAND] [OPTION ...]\n\n")
    assert "0 to 65,535. Default: 3001." in " ".join(out.split())
