"""``panels-gateway check-config``."""

from __future__ import annotations

from pathlib import Path

import pytest

from panels_gateway.commands.dispatch import run
from panels_gateway.configuration.config import EXIT_CONFIG


def check(*arguments: str, directory: Path, **environment: str) -> int:
    return run(["check-config", *arguments], environment, directory=directory)


def test_good_configuration_is_said_to_be_good_and_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("s" * 32)
    assert check("--jwt-secret-file=secret", directory=tmp_path) == 0
    assert capsys.readouterr().out == "the configuration is good\n"
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_unknown_variables_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--no-auth", directory=tmp_path, PANELS_MAX_PANNELS="1") == 0
    assert "did you mean PANELS_MAX_PANELS?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "no-auth = true\nport = 'x'\n",
            "port: expected a whole number, 0 to 65535, got 'x' (from {file}:2)",
        ),
        (
            "no-auth = true\n\nprot = 1\n",
            "config: expected options, got 'prot' in {file}:3; did you mean port?",
        ),
        ("jwt-secret-file = 'none'\n", "jwt-secret-file: expected a readable file at {directory}/none"),
        (
            "no-auth = true\nextensions = 'none.toml'\n",
            "extensions: ",
        ),
        ("no-auth = true\nbus-key-file = 'none'\n", "bus-key-file: expected a readable file"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_its_line(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "panels.toml"
    file.write_text(text)
    (tmp_path / ".panels").mkdir()
    assert check("--config", str(file), directory=tmp_path) == EXIT_CONFIG
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("panels-gateway: " + sentence.format(file=file, directory=tmp_path))
    assert captured.err.count("\n") == 1


def test_check_takes_the_same_options_as_a_gateway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("--no-auth", "--prot=1", directory=tmp_path) == EXIT_CONFIG
    assert "--prot" in capsys.readouterr().err
