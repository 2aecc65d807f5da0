"""What is printed, to terminals and to files."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_cli.output import Output, clean, one_line, when


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    out = io.StringIO()
    output = Output(as_json=False, out=out, err=out, environment={})
    output.line("a\x1b[2J", ("b\x9b\n", "red"))
    output.table(("x",), [("\u202eevil\r",)])
    output.block("c\x07\nd")
    output.note("\x1b]0;title\x07")
    assert not set("\x1b\x9b\r\x07\u202e") & set(out.getvalue())


@given(st.text())
def test_cleaned_json_is_the_same_json(text: str) -> None:
    encoded = json.dumps(text, ensure_ascii=False)
    assert json.loads(clean(encoded)) == text


@pytest.mark.parametrize(
    ("file", "environment", "coloured"),
    [
        (Screen(), {}, True),
        (Screen(), {"NO_COLOR": "1"}, False),
        (Screen(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(
    file: io.StringIO, environment: dict[str, str], coloured: bool
) -> None:
    Output(as_json=False, out=file, err=file, environment=environment).line(("x", "red"))
    assert ("\x1b" in file.getvalue()) is coloured


def test_tables_are_cut_on_a_terminal_and_whole_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for file, longest in ((Screen(), 80), (io.StringIO(), 205)):
        Output(as_json=False, out=file, err=file, environment={"NO_COLOR": "1"}).table(
            ("A", "B"), [("abc", "x" * 200), (None, 1)]
        )
        assert max(map(len, file.getvalue().splitlines())) == longest


def test_programs_get_one_json_value_a_line() -> None:
    out, err = io.StringIO(), io.StringIO()
    output = Output(as_json=True, out=out, err=err, environment={})
    output.value({"a": "\u009b"})
    output.fault({"code": "X"})
    output.pretty([1])
    assert out.getvalue() == '{"a":"\\u009b"}\n[\n  1\n]\n'
    assert json.loads(err.getvalue()) == {"error": {"code": "X"}}


def test_values_are_cut_and_times_are_utc() -> None:
    assert one_line("x" * 100, 10) == '"xxxxxxxx…'
    assert when(0) == "1970-01-01 00:00:00"
    assert when("\x1b") == "\\u001b"
