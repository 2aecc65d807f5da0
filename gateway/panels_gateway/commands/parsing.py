"""The command lines of the commands: what each takes, and its ``--help``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from panels_gateway.configuration.config import load_data_dir
from panels_gateway.journal import schema
from panels_gateway.journal.directory import META
from panels_shared.errors import ConfigError

_PROGRAM: Final = "panels-gateway"
_EPILOG: Final = """\
exit codes: 0 done, 65 damaged or foreign data, 69 the directory is in use,
74 the disk failed or is full, 78 wrong usage. See docs/operations.md."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


@dataclass(frozen=True, slots=True)
class Where:
    """What a command is run with besides its arguments: the environment, and what relative paths are relative
    to.
    """

    environment: Mapping[str, str]
    directory: Path

    def data_dir(self, options: argparse.Namespace) -> Path:
        """The data directory, there or not. Raises ``ConfigError``."""
        return load_data_dir(options.config, options.data_dir, self.environment, directory=self.directory)

    def journal_dir(self, options: argparse.Namespace) -> Path:
        """The data directory, which has a journal. Raises ``ConfigError``."""
        path = self.data_dir(options)
        if not (path / META).exists() and not (path / schema.DATABASE).exists():
            raise ConfigError(f"data-dir: expected the data directory of a gateway at {path}, got none")
        return path

    def file(self, text: str) -> Path:
        """A path that an argument names."""
        return self.directory / Path(text).expanduser()

    def new_file(self, text: str) -> Path:
        """A file that is not there yet, in a directory that is. Raises ``ConfigError``."""
        path = self.file(text)
        if path.exists():
            raise ConfigError(f"FILE: expected a name that is free, got {path}, which exists")
        if not path.parent.is_dir():
            raise ConfigError(f"FILE: expected a directory at {path.parent}, got none")
        return path

    def old_file(self, text: str) -> Path:
        """A file that is there. Raises ``ConfigError``."""
        path = self.file(text)
        if not path.is_file():
            raise ConfigError(f"FILE: expected a file at {path}, got none")
        return path


def parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser with what all commands take. Its errors are ``ConfigError``."""
    made = _Parser(
        prog=f"{_PROGRAM} {command}",
        description=description,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--data-dir",
        metavar="PATH",
        help="the gateway's data directory; also PANELS_DATA_DIR, or data-dir in the configuration file",
    )
    made.add_argument("--config", metavar="FILE", help="the gateway's configuration file; also PANELS_CONFIG")
    return made


def parse(made: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """What ``arguments`` say. Raises ``ConfigError``, and ``SystemExit`` after --help."""
    return made.parse_args(list(arguments))
