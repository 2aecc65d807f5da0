"""The operator's file, and the one that the documents show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from panels_gateway.extensions import config as configuration
from panels_gateway.extensions.config import ExtensionsConfig, Secret
from panels_gateway.extensions.errors import MEANINGS, ErrorCode, ExtensionConfigError
from panels_gateway.extensions.http.policy import parse_rules

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs" / "extensions.md").read_text()


def loaded(folder: Path, text: str) -> ExtensionsConfig:
    file = folder / "extensions.toml"
    file.write_text(text)
    return configuration.load(file)


def test_file_in_the_document_is_taken(tmp_path: Path) -> None:
    whole, confinement = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)

    config = loaded(tmp_path, confinement + whole)  # keys before the tables

    assert (config.confine, config.local_sockets) == ("auto", False)
    assert config.readable
    assert config.writable
    assert parse_rules("http.allow", config.http.allow)
    assert config.http.secrets["STRIPE"].file
    assert configuration.decode(configuration.encode(config)) == config


def test_document_has_the_example_and_every_code() -> None:
    source = (ROOT / "examples" / "extension" / "panels_weather" / "weather.py").read_text()

    assert source[source.index("class Weather") :] in DOCUMENT
    assert MEANINGS.keys() == set(ErrorCode)
    for code, meaning in MEANINGS.items():
        assert f"| `{code.value}` | {meaning} |" in DOCUMENT


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("alow = 1", "unknown field `alow`"),
        ("[http]\nresponse_byte = 1", "`$.http`"),
        ("[http]\ntimeout_s = 0", "`$.http.timeout_s`"),
        ("[http.secrets.lower]\nvalue = 'x'\norigins = ['https://x']", "`key` in `$.http.secrets`"),
        ("[http.secrets.X]\nvalue = 'x'\norigins = []", "origins`"),
        ("extensions = ", "Invalid value"),
        ("x" * 2_000_000, "at most"),
    ],
    ids=["field", "nested", "bound", "secret", "origins", "toml", "size"],
)
def test_file_is_refused_with_the_place(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(ExtensionConfigError, match=re.escape(place)):
        loaded(tmp_path, text)


def test_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExtensionConfigError, match="cannot read"):
        configuration.load(tmp_path / "none.toml")


def test_secret_of_a_file_loses_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("correct-horse\n")

    assert configuration.value_of("X", Secret(file=str(file), origins=["https://x"])) == "correct-horse"
