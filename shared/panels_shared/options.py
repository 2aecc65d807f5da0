"""Options of a command, each described once: flags, environment, TOML file, checks and
documentation come from a table.

An option ``max-frame-bytes`` is the flag ``--max-frame-bytes``, the variable ``PANELS_MAX_FRAME_BYTES`` and
the key ``max-frame-bytes`` (or ``max_frame_bytes``) of the file. A flag wins over the environment, the
environment over the file, the file over the default. Whatever is wrong is one ``ConfigError`` that says
where the value came from: the flag, the variable, or the file and its line.

Both programs may be told by one environment and one file: each has a prefix for its variables and, if it is
not the gateway, a table of the file for itself.

The table reads nothing itself: arguments and environment are handed in, and so is the
function that reads the file.
"""

from __future__ import annotations

import argparse
import difflib
import math
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeVar

from panels_shared.errors import ConfigError
from panels_shared.limits import KIB, MIB

Kind = Literal["text", "path", "flag", "integer", "bytes", "number", "list", "levels"]
Value = str | Path | bool | int | float | tuple[str, ...] | None

GIB: Final = 1024 * MIB
#: Bytes of a configuration file. A security limit.
MAX_CONFIG_FILE_BYTES: Final = MIB

_SIZE_PATTERN: Final = re.compile(r"([0-9]{1,15})\s*(B|KiB|MiB|GiB)?")
_UNITS: Final = {None: 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")
_MAX_TEXT_CHARS: Final = 4_096
_MAX_SHOWN_CHARS: Final = 80
#: What the variables of all of panels' programs begin with.
_FAMILY_PREFIX: Final = "PANELS_"
#: How alike two variables are (``difflib``'s ratio) before one passes for a misspelling of the other.
_MISTYPED_RATIO: Final = 0.7
#: Unknown variables that are named one by one.
_MAX_UNKNOWN: Final = 16
#: Columns of the help and of the comments in an annotated file.
_COLUMNS: Final = 80

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
#: Loggers that one option may give a level of their own. A security limit.
MAX_LOGGERS: Final = 32
_LOGGER_PATTERN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,99}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option.

    - ``minimum`` and ``maximum`` are inclusive, and for numbers only;
    - ``choices`` are all values of a text, and for numbers words that may stand in place of one;
    - ``guards``: without it something is not checked or not bounded, so that a variable that is set to
      nothing, as ``PANELS_JWT_AUDIENCE=$UNSET`` is, must not count as absent: it is an error;
    - ``default`` None means not set; ``shown_default`` is what the documentation says of it
      where that is not enough.
    """

    name: str
    group: str
    kind: Kind
    help: str
    default: Value = None
    shown_default: str | None = None
    minimum: float = 0
    maximum: float = math.inf
    choices: tuple[str, ...] = ()
    guards: bool = False

    @property
    def key(self) -> str:
        """The option's name in Python."""
        return self.name.replace("-", "_")

    def parse(self, raw: object, *, source: str, base: Path) -> Value:
        """``raw`` (a string from flag or environment, or a value of TOML) as this option's kind.

        ``base`` is what a relative path is relative to. Raises ``ConfigError``, naming ``source``.
        """
        value = _PARSERS[self.kind](self, raw, source)
        if isinstance(value, str) and self.choices and value not in self.choices:
            raise self.error(f"one of {', '.join(self.choices)}", raw, source)
        if self.kind == "path" and isinstance(value, str):
            return base / Path(value).expanduser()
        return value

    def error(self, expected: str, got: object, source: str) -> ConfigError:
        """What is wrong with this option's value, and where it came from."""
        shown = repr(got)
        shown = shown if len(shown) <= _MAX_SHOWN_CHARS else shown[:_MAX_SHOWN_CHARS] + "…"
        return ConfigError(f"{self.name}: expected {expected}, got {shown} (from {source})")


class Values:
    """What the options of a table are set to, by type, and where each value came from."""

    __slots__ = ("_sources", "_values")

    def __init__(self, values: Mapping[str, Value], sources: Mapping[str, str]) -> None:
        self._values = values
        self._sources = sources

    def get(self, key: str, kind: type[T]) -> T:
        """The value of an option that is always set."""
        value = self._values[key]
        assert isinstance(value, kind), key
        return value

    def maybe(self, key: str, kind: type[T]) -> T | None:
        """The value of an option, or None where it is not set."""
        return None if self._values[key] is None else self.get(key, kind)

    def changed(self, other: Values) -> set[str]:
        """The keys of the options that are not the same in ``other``, which is of the same table."""
        return {key for key, value in self._values.items() if other._values[key] != value}

    def value(self, key: str) -> Value:
        """The value of an option, of whatever type."""
        return self._values[key]

    def given(self, key: str) -> str | None:
        """Where the value came from, None if it is the default."""
        return self._sources.get(key)

    def source(self, key: str) -> str:
        """Where the value came from: a flag, a variable, a file, or ``the default``."""
        return self._sources.get(key, "the default")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionTable:
    """All options of one command.

    - ``prefix`` begins the variables of its options; ``foreign_prefixes`` are those of other programs;
    - ``config_variable`` names the file of ``--config`` in the environment;
    - ``section`` is the table of the file that holds its options, None for those outside of any table;
      ``foreign_sections`` are those of other programs;
    - ``usage`` is the first line of the help, where it is more than the options;
    - ``foreign_variables`` belong to other programs: they are not unknown;
    """

    program: str
    version: str
    description: str
    options: tuple[Option, ...]
    config_variable: str
    usage: str | None = None
    prefix: str = _FAMILY_PREFIX
    foreign_prefixes: tuple[str, ...] = ()
    foreign_variables: frozenset[str] = frozenset()
    section: str | None = None
    foreign_sections: frozenset[str] = frozenset()

    def variable(self, option: Option) -> str:
        """The option's name in the environment."""
        return f"{self.prefix}{option.key.upper()}"

    def read(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        directory: Path,
        read_file: Callable[[Path], bytes],
    ) -> Values:
        """What the command line, the environment and the file give.

        ``directory`` is what relative paths of the first two are relative to; those in the file are relative
        to it. ``read_file`` returns at most ``MAX_CONFIG_FILE_BYTES`` + 1 bytes, or raises ``OSError``.
        Raises ``ConfigError``; ``SystemExit`` after --help and --version.
        """
        flags = vars(self._parser().parse_args(arguments))
        file = flags.pop("config") or environment.get(self.config_variable)
        shows = flags.pop("print_config")
        values: dict[str, Value] = {option.key: option.default for option in self.options}
        sources: dict[str, str] = {}
        if file:
            path = directory / Path(file).expanduser()
            for option, raw, source in self._in_file(path, read_file):
                values[option.key] = option.parse(raw, source=source, base=path.parent)
                sources[option.key] = source
        for option in self.options:
            variable = self.variable(option)
            text, flag = environment.get(variable), flags[option.key]
            if text == "" and option.guards and flag is None:
                raise option.error("a value, or no such variable", text, variable)
            if text:
                values[option.key] = option.parse(text, source=variable, base=directory)
                sources[option.key] = variable
            if flag is not None:
                source = f"--{option.name}"
                values[option.key] = option.parse(flag, source=source, base=directory)
                sources[option.key] = source
        read = Values(values, sources)
        if shows:
            sys.stdout.write(self.annotated(read))
            raise SystemExit(0)
        return read

    def unknown(self, environment: Iterable[str]) -> list[str]:
        """A sentence for each variable that looks like one of ours and is none, with the nearest that is one;
        at most ``_MAX_UNKNOWN`` of them, and one more that says how many others there are.
        """
        known = {self.variable(option) for option in self.options}
        others = {*known, self.config_variable, *self.foreign_variables}
        names = sorted(
            name
            for name in environment
            if name.startswith(self.prefix)
            and name not in others
            and not any(name.startswith(prefix) for prefix in self.foreign_prefixes)
        )
        sentences = [self._unknown(name, known) for name in names[:_MAX_UNKNOWN]]
        for name in sorted(environment):
            # the same option without our prefix, as it was once called, and as somebody may still call it
            rest = name.removeprefix(_FAMILY_PREFIX)
            if (
                name not in others
                and not name.startswith(self.prefix)
                and rest != name
                and self.prefix + rest in known
            ):
                sentences.append(f"the variable {name} is not read; did you mean {self.prefix}{rest}?")
        if len(names) > _MAX_UNKNOWN:
            sentences.append(
                f"{len(names) - _MAX_UNKNOWN} more variables {self.prefix}... are no options either"
            )
        return sentences

    def _unknown(self, name: str, known: Iterable[str]) -> str:
        # without what all have: it would make them all alike
        ends = sorted(each.removeprefix(self.prefix) for each in known)
        near = difflib.get_close_matches(name.removeprefix(self.prefix), ends, n=1, cutoff=_MISTYPED_RATIO)
        hint = f"did you mean {self.prefix}{near[0]}?" if near else f"see {self.program} --help"
        return f"the variable {name[:_MAX_SHOWN_CHARS]} is no option and is ignored; {hint}"

    def reference(self) -> str:
        """The table of options in Markdown, as the documentation has it."""
        lines: list[str] = []
        for group in dict.fromkeys(option.group for option in self.options):
            lines += [f"### {group}", "", "| Flag | Default | Range | Meaning |", "|---|---|---|---|"]
            for option in self.options:
                if option.group == group:
                    lines.append(
                        f"| `--{option.name}` | {_shown_default(option)} | "
                        f"{_shown_range(option)} | {option.help} |"
                    )
            lines.append("")
        return "\n".join(lines)

    def annotated(self, values: Values | None = None) -> str:
        """A configuration file with every option, what it is for, its range and its default.

        What ``values`` sets is a line, with where it came from; what it does not set, and without ``values``
        everything, is a comment. The file holds no secrets, since no option does.
        """
        lines = [f"# Options of {self.program} {self.version}. What is commented out has its default."]
        if self.section is not None:
            lines += ["", f"[{self.section}]"]
        for group in dict.fromkeys(option.group for option in self.options):
            lines += ["", f"# -- {group} {'-' * (_COLUMNS - 6 - len(group))}"]
            for option in self.options:
                if option.group == group:
                    lines += self._annotated(option, values)
        return "\n".join(lines) + "\n"

    def _annotated(self, option: Option, values: Values | None) -> list[str]:
        text = " ".join(option.help.split()) + _help_range(option) + _help_default(option)
        comments = textwrap.wrap(text, _COLUMNS - 2, break_long_words=False, break_on_hyphens=False)
        source = None if values is None else values.given(option.key)
        if values is not None and source is not None:
            line = f"{option.name} = {_toml(option, values.value(option.key))}  # from {source}"
        else:
            line = f"# {option.name} = {_toml(option, option.default)}".rstrip()
        return ["", *(f"# {comment}" for comment in comments), line]

    def _parser(self) -> argparse.ArgumentParser:
        where = "" if self.section is None else f", in its table [{self.section}]"
        parser = _Parser(
            prog=self.program,
            description=self.description,
            usage=self.usage or f"{self.program} [OPTION ...]",
            epilog=f"Each option is also a variable (--log-level: {self.prefix}LOG_LEVEL) and a\n"
            f"key of the TOML file (log-level{where}).",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--version", action="version", version=f"{self.program} {self.version}")
        parser.add_argument(
            "--config",
            metavar="FILE",
            help=f"TOML file with any of the options below. Also {self.config_variable}.",
        )
        parser.add_argument(
            "--print-config",
            action="store_true",
            help="Print every option with its value and where that came from, as such a file, and end.",
        )
        groups = {
            name: parser.add_argument_group(name) for name in dict.fromkeys(o.group for o in self.options)
        }
        for option in self.options:
            # a flag may be given as --no-auth=false too, to overrule the file
            groups[option.group].add_argument(
                f"--{option.name}",
                dest=option.key,
                nargs="?" if option.kind == "flag" else None,
                const="true" if option.kind == "flag" else None,
                metavar=_metavar(option),
                help=(option.help + _help_range(option) + _help_default(option)).replace("%", "%%"),
            )
        return parser

    def _in_file(self, path: Path, read_file: Callable[[Path], bytes]) -> list[tuple[Option, object, str]]:
        """The options that the file sets, each with the file and line that sets it."""
        try:
            content = read_file(path)
        except OSError as exc:
            raise ConfigError(f"config: expected a readable file at {path}, got: {exc.strerror}") from None
        if len(content) > MAX_CONFIG_FILE_BYTES:
            raise ConfigError(f"config: expected at most {MAX_CONFIG_FILE_BYTES} bytes in {path}, got more")
        try:
            text = content.decode()
            document: dict[str, Any] = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise ConfigError(f"config: expected TOML in {path}, got: {exc}") from None
        section = None
        if self.section is not None and isinstance(document.get(self.section), dict):
            section, document = self.section, document[self.section]
        found: list[tuple[Option, object, str]] = []
        for name, raw in document.items():
            if section is None and name in self.foreign_sections and isinstance(raw, dict):
                continue
            line = _line_of(text, section, name)
            source = str(path) if line is None else f"{path}:{line}"
            found.append((self._named(name, source), raw, source))
        return found

    def _named(self, name: str, source: str) -> Option:
        for option in self.options:
            if option.key == name.replace("-", "_"):
                return option
        near = difflib.get_close_matches(name.replace("_", "-"), [o.name for o in self.options], n=1)
        hint = f"did you mean {near[0]}?" if near else f"see {self.program} --help"
        raise ConfigError(f"config: expected options, got {name[:_MAX_SHOWN_CHARS]!r} in {source}; {hint}")


def _line_of(text: str, section: str | None, name: str) -> int | None:
    """In which line of a TOML file a key of a table is set (None: of no table), counted from 1.

    None where it is not found: TOML can spell a key in ways that this does not look for.
    """
    key = re.compile(rf"""\s*(["']?){re.escape(name)}\1\s*=""")
    table: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if (header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line)) is not None:
            table = header[1]
        elif table == section and key.match(line) is not None:
            return number
    return None


def _metavar(option: Option) -> str:
    if option.kind == "flag":
        return "true|false"
    return "|".join(option.choices) if option.choices and option.kind == "text" else option.kind.upper()


def _help_range(option: Option) -> str:
    if option.kind == "bytes" or option.kind in ("integer", "number"):
        least, most = _shown(option, option.minimum), _shown(option, option.maximum)
        shown = f"{least} to {most}" if most else f"at least {least}"
        return f" {', '.join((*option.choices, shown))}."
    return f" One of {', '.join(option.choices)}." if option.kind == "list" and option.choices else ""


def _help_default(option: Option) -> str:
    if option.shown_default is not None:
        return f" Default: {option.shown_default.replace('`', '')}."
    if option.default is None or isinstance(option.default, bool):
        return ""
    return f" Default: {_shown_default(option).strip('`')}."


# -- values ------------------------------------------------------------------------------------------


def _text(option: Option, raw: object, source: str) -> Value:
    if not isinstance(raw, str) or not raw or len(raw) > _MAX_TEXT_CHARS or "\0" in raw:
        raise option.error(f"1 to {_MAX_TEXT_CHARS} characters", raw, source)
    return raw


def _flag(option: Option, raw: object, source: str) -> Value:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.lower() in _TRUE + _FALSE:
        return raw.lower() in _TRUE
    raise option.error("true or false", raw, source)


def _bounds(option: Option) -> str:
    if option.maximum == math.inf:
        return f"at least {option.minimum:.15g}"
    return f"{option.minimum:.15g} to {option.maximum:.15g}"


def _within(option: Option, value: float, raw: object, source: str, what: str) -> None:
    if not option.minimum <= value <= option.maximum:
        raise option.error(f"{what}, {_bounds(option)}", raw, source)


def _integer(option: Option, raw: object, source: str) -> Value:
    if raw in option.choices:
        return str(raw)
    what = " or ".join((*option.choices, "a whole number"))
    if isinstance(raw, str) and re.fullmatch(r"[0-9]{1,18}", raw):
        raw = int(raw)
    if not isinstance(raw, int) or isinstance(raw, bool):
        raise option.error(f"{what}, {_bounds(option)}", raw, source)
    _within(option, raw, raw, source, what)
    return raw


def _bytes(option: Option, raw: object, source: str) -> Value:
    what = "a number of bytes like 65536 or 64KiB"
    value = raw
    if isinstance(raw, str) and (match := _SIZE_PATTERN.fullmatch(raw)) is not None:
        value = int(match[1]) * _UNITS[match[2]]
    if not isinstance(value, int) or isinstance(value, bool):
        raise option.error(f"{what}, {_bounds(option)}", raw, source)
    _within(option, value, raw, source, what)
    return value


def _number(option: Option, raw: object, source: str) -> Value:
    what = "a number"
    value = raw
    if isinstance(raw, str) and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", raw):
        value = float(raw)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise option.error(f"{what}, {_bounds(option)}", raw, source)
    _within(option, value, raw, source, what)
    return float(value)


def _list(option: Option, raw: object, source: str) -> Value:
    items: Sequence[Any] = ()
    if isinstance(raw, str):
        items = [item.strip() for item in raw.split(",") if item.strip()]
    elif isinstance(raw, list):
        items = raw
    else:
        raise option.error("a list", raw, source)
    if len(items) > 256 or not all(isinstance(item, str) and item for item in items):
        raise option.error("at most 256 texts", raw, source)
    unknown = [item for item in items if option.choices and item not in option.choices]
    if unknown:
        raise option.error(f"some of {', '.join(option.choices)}", unknown[0], source)
    return tuple(items)


def _levels(option: Option, raw: object, source: str) -> Value:
    what = (
        f"one of {', '.join(LOG_LEVELS)}, and behind it levels of single loggers, like "
        "info,panels.gateway.bus=debug"
    )
    if not isinstance(raw, str):
        raise option.error(what, raw, source)
    if parse_levels(raw) is None:
        raise option.error(what, raw, source)
    return raw


def parse_levels(text: str) -> tuple[str, dict[str, str]] | None:
    """The level of all loggers of ours, and those of single loggers by name, that ``text`` sets:
    ``info,panels.gateway.bus=debug``. None if it cannot be read.
    """
    first, *rest = [item.strip() for item in text.split(",")]
    levels: dict[str, str] = {}
    for item in rest:
        name, equals, level = item.partition("=")
        if not equals or _LOGGER_PATTERN.fullmatch(name) is None or level not in LOG_LEVELS or name in levels:
            return None
        levels[name] = level
    return None if first not in LOG_LEVELS or len(levels) > MAX_LOGGERS else (first, levels)


_PARSERS: Final[dict[Kind, Callable[[Option, object, str], Value]]] = {
    "text": _text,
    "path": _text,
    "flag": _flag,
    "integer": _integer,
    "bytes": _bytes,
    "number": _number,
    "list": _list,
    "levels": _levels,
}


# -- documentation -----------------------------------------------------------------------------------


def _shown(option: Option, value: float) -> str:
    if value == math.inf:
        return ""
    if option.kind != "bytes":
        return f"{value:,.15g}" if value != int(value) else f"{int(value):,}"
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if value >= size and value % size == 0:
            return f"{int(value) // size} {unit}"
    return f"{int(value):,} B"


def _shown_default(option: Option) -> str:
    default = option.default
    if option.shown_default is not None:
        return option.shown_default
    if default is None:
        return "–"
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, int | float):
        return _shown(option, default)
    return f"`{default}`"


def _shown_range(option: Option) -> str:
    if option.choices:
        words = ", ".join(option.choices)
        return f"{words}, {_bounds(option)}" if option.kind == "integer" else words
    if option.kind not in ("integer", "bytes", "number"):
        return ""
    return f"{_shown(option, option.minimum)} – {_shown(option, option.maximum)}"


def _toml(option: Option, value: Value) -> str:
    """A value as TOML writes it; "" where an option is not set."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml_text(item) for item in value)}]"
    if isinstance(value, int | float):
        if option.kind == "bytes" and value >= KIB and value % KIB == 0:
            return _toml_text(_shown(option, value))
        return f"{value:.15g}"
    return _toml_text(str(value))


def _toml_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
