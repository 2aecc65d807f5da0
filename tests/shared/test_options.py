"""The option machinery on a table of its own: precedence, kinds, ranges, sentences."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from panels_shared.errors import ConfigError
from panels_shared.options import (
    MAX_CONFIG_FILE_BYTES,
    MAX_LOGGERS,
    Option,
    OptionTable,
    Values,
    parse_levels,
)

TABLE = OptionTable(
    program="demo",
    version="9",
    description="A demonstration.",
    config_variable="PANELS_DEMO_CONFIG",
    options=(
        Option(name="name", group="Some", kind="text", default="anna", help="A name."),
        Option(
            name="mode", group="Some", kind="text", default="a", choices=("a", "b"), help="A mode at 100%."
        ),
        Option(
            name="count-of",
            group="Some",
            kind="integer",
            default=2,
            minimum=1,
            maximum=1_000,
            help="A count.",
        ),
        Option(name="guard", group="Some", kind="text", guards=True, help="A check."),
        Option(name="size", group="More", kind="bytes", default=2048, minimum=1024, help="A size."),
        Option(name="share", group="More", kind="number", default=0.5, maximum=1, help="A share."),
        Option(name="on", group="More", kind="flag", default=False, help="A switch."),
        Option(name="where", group="More", kind="path", help="A place.", shown_default="here"),
        Option(name="items", group="More", kind="list", choices=("x", "y"), help="Items."),
    ),
)


def read(*arguments: str, file: bytes = b"", **environment: str) -> Values:
    def read_file(path: Path) -> bytes:
        if str(path) != "/etc/demo.toml":
            raise FileNotFoundError(2, "No such file or directory")
        return file

    if file:
        environment["PANELS_DEMO_CONFIG"] = "/etc/demo.toml"
    return TABLE.read(arguments, environment, directory=Path("/here"), read_file=read_file)


def refusal(*arguments: str, file: bytes = b"", **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*arguments, file=file, **environment)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_flag_wins_over_environment_over_file_over_default() -> None:
    file = b'name = "file"\nmode = "b"\ncount_of = 7\n'
    values = read("--name", "flag", file=file, PANELS_NAME="env", PANELS_COUNT_OF="8")
    assert [values.get("name", str), values.get("mode", str), values.get("count_of", int)] == ["flag", "b", 8]
    assert values.get("size", int) == 2048
    assert [values.source(key) for key in ("name", "mode", "count_of", "size")] == [
        "--name",
        "/etc/demo.toml:2",
        "PANELS_COUNT_OF",
        "the default",
    ]


def test_value_overruled_by_a_better_one_is_checked_all_the_same() -> None:
    assert "from PANELS_COUNT_OF" in refusal("--count-of", "3", PANELS_COUNT_OF="no")


def test_each_kind_is_read_from_text_and_from_toml() -> None:
    texts = read("--size", "2 KiB", "--share=1", "--on", "--where", "a/b", "--items", "x, y,")
    file = read(file=b'size = 2048\nshare = 1\non = true\nwhere = "a/b"\nitems = ["x", "y"]\n')
    for values, base in ((texts, "/here"), (file, "/etc")):
        assert values.get("size", int) == 2048
        assert values.get("share", float) == 1.0
        assert values.get("on", bool) is True
        assert values.get("where", Path) == Path(base) / "a/b"
        assert values.get("items", tuple) == ("x", "y")
    assert read().maybe("where", Path) is None
    assert read("--on=no", PANELS_ON="yes").get("on", bool) is False


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--mode", "c"], "mode: expected one of a, b, got 'c' (from --mode)"),
        (["--count-of", "0"], "count-of: expected a whole number, 1 to 1000, got 0 (from --count-of)"),
        (["--count-of", "1.0"], "count-of: expected a whole number, 1 to 1000, got '1.0'"),
        (["--count-of", "9" * 19], "count-of: expected a whole number"),
        (
            ["--size", "1KiBs"],
            "size: expected a number of bytes like 65536 or 64KiB, at least 1024, got '1KiBs'",
        ),
        (["--size", "1"], "size: expected"),
        (["--share", "1.01"], "share: expected a number, 0 to 1, got '1.01'"),
        (["--share", "nan"], "share: expected a number"),
        (["--on=maybe"], "on: expected true or false, got 'maybe' (from --on)"),
        (["--items", "x,z"], "items: expected some of x, y, got 'z'"),
        (["--where", ""], "where: expected 1 to 4096 characters"),
        (["--name", "x" * 5_000], "…"),
        (["--nam", "x"], "see demo --help"),
        (["--config", "none.toml"], "config: expected a readable file at /here/none.toml, got: No such file"),
    ],
)
def test_bad_value_is_refused_with_a_sentence(arguments: list[str], sentence: str) -> None:
    said = refusal(*arguments)
    assert sentence in said
    assert len(said) < 250


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (
            b"count_off = 1",
            "config: expected options, got 'count_off' in /etc/demo.toml:1; did you mean count-of?",
        ),
        (b"zzz = 1", "see demo --help"),
        (
            b"count-of = true",
            "count-of: expected a whole number, 1 to 1000, got True (from /etc/demo.toml:1)",
        ),
        (b"size = 2.0", "size: expected"),
        (b"share = '1'x", "config: expected TOML"),
        (b"share = inf", "share: expected"),
        (b"\xff", "config: expected TOML"),
        (b"on = 1", "on: expected true or false, got 1"),
        (b"items = 'x'\nitems = 'y'", "config: expected TOML"),
        (b"items = 5", "items: expected a list"),
        (b"items = ['']", "items: expected at most 256 texts"),
        (b"name = 1", "name: expected"),
        (b"#" * (MAX_CONFIG_FILE_BYTES + 1), "config: expected at most"),
    ],
)
def test_bad_file_is_refused_with_a_sentence(file: bytes, sentence: str) -> None:
    assert sentence in refusal(file=file)


def test_empty_variable_counts_as_absent() -> None:
    assert read(PANELS_NAME="", PANELS_COUNT_OF="").get("count_of", int) == 2
    assert read(file=b'name = "file"', PANELS_NAME="").get("name", str) == "file"


def test_empty_variable_that_would_switch_a_check_off_is_an_error_unless_a_flag_decides() -> None:
    assert "guard: expected a value, or no such variable, got '' (from PANELS_GUARD)" in refusal(
        PANELS_GUARD=""
    )
    assert read("--guard=on", PANELS_GUARD="").get("guard", str) == "on"


def test_line_of_an_option_is_that_of_its_own_table() -> None:
    table = dataclasses.replace(TABLE, section="demo")
    file = b'[other]\nname = 1\n\n[demo]\n"name" = 2\n'
    with pytest.raises(ConfigError, match=r"got 2 \(from /f:5\)"):
        table.read(["--config=/f"], {}, directory=Path("/"), read_file=lambda _: file)


def test_file_of_another_program_only_is_no_table_of_ours() -> None:
    table = dataclasses.replace(TABLE, foreign_sections=frozenset({"worker"}))
    values = table.read(
        ["--config=/f"], {}, directory=Path("/"), read_file=lambda _: b"name = 'x'\n[worker]\nzzz = 1\n"
    )
    assert values.get("name", str) == "x"
    with pytest.raises(ConfigError, match="got 'other'"):
        table.read(["--config=/f"], {}, directory=Path("/"), read_file=lambda _: b"[other]\nzzz = 1\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("info", ("info", {})),
        ("warning,panels.gateway.bus=debug", ("warning", {"panels.gateway.bus": "debug"})),
        ("info, uvicorn=info", ("info", {"uvicorn": "info"})),
        ("loud", None),
        ("", None),
        ("panels=debug", None),
        ("info,panels", None),
        ("info,panels=loud", None),
        ("info,pa nels=info", None),
        ("info,a=info,a=debug", None),
        ("info," + ",".join(f"l{n}=info" for n in range(MAX_LOGGERS + 1)), None),
    ],
)
def test_levels_are_one_for_all_and_others_for_single_loggers(
    text: str, expected: tuple[str, dict[str, str]] | None
) -> None:
    assert parse_levels(text) == expected


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PANELS_COUNT_OFF", "PANELS_COUNT_OF"),
        ("PANELS_COUTN_OF", "PANELS_COUNT_OF"),
        ("PANELS_ITEM", "PANELS_ITEMS"),
    ],
)
def test_mistyped_variable_is_named_with_what_was_meant(name: str, meant: str) -> None:
    assert TABLE.unknown({name: "1"}) == [
        f"the variable {name} is no option and is ignored; did you mean {meant}?"
    ]


@pytest.mark.parametrize("name", ["PANELS_NAME", "PANELS_DEMO_CONFIG", "COUNT_OFF", "PATH"])
def test_other_variables_are_left_alone(name: str) -> None:
    assert TABLE.unknown({name: "1"}) == []


def test_variable_that_is_like_no_option_is_named_too() -> None:
    assert TABLE.unknown({"PANELS_ZZZ": "1"}) == [
        "the variable PANELS_ZZZ is no option and is ignored; see demo --help"
    ]


def test_variables_are_named_one_by_one_up_to_a_bound() -> None:
    said = TABLE.unknown({f"PANELS_ZZZ_{n}": "" for n in range(1_000)})
    assert len(said) == 17
    assert said[-1] == "984 more variables PANELS_... are no options either"


def test_reference_has_a_row_for_each_option() -> None:
    assert TABLE.reference().splitlines()[:6] == [
        "### Some",
        "",
        "| Flag | Default | Range | Meaning |",
        "|---|---|---|---|",
        "| `--name` | `anna` |  | A name. |",
        "| `--mode` | `a` | a, b | A mode at 100%. |",
    ]
    assert "| `--count-of` | 2 | 1 – 1,000 | A count. |" in TABLE.reference()
    assert "| `--size` | 2 KiB | 1 KiB –  | A size. |" in TABLE.reference()
    assert "| `--on` | off |  | A switch. |" in TABLE.reference()
    assert "| `--where` | here |  | A place. |" in TABLE.reference()


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_questions_are_answered(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        read(flag)
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "demo 9" in out if flag == "--version" else "A mode at 100%. Default: a." in " ".join(out.split())


def test_annotated_file_says_all_of_every_option_and_is_read_back() -> None:
    table = dataclasses.replace(TABLE, section="demo")
    written = table.annotated()
    assert tomllib.loads(written) == {"demo": {}}
    for line in (
        "# -- Some ",
        '# name = "anna"',
        "# count-of = 2",
        '# size = "2 KiB"',
        "# on = false",
        "# where =",
    ):
        assert f"\n{line}" in written, line
    values = read(
        '--name=b\u00e9"\\', "--count-of=7", "--size=1500", "--on", "--items=x,y", PANELS_SHARE="0.25"
    )
    shown = table.annotated(values)
    assert tomllib.loads(shown)["demo"] == {
        "name": 'b\u00e9"\\', "count-of": 7, "size": 1500, "on": True, "items": ["x", "y"], "share": 0.25
    }  # fmt: skip
    assert "count-of = 7  # from --count-of" in shown
    assert "share = 0.25  # from PANELS_SHARE" in shown
    again = table.read(
        (), {"PANELS_DEMO_CONFIG": "/f"}, directory=Path("/"), read_file=lambda _: shown.encode()
    )
    assert again.changed(values) == set()
    assert again.changed(read("--name=other")) == {"name", "count_of", "size", "on", "items", "share"}
