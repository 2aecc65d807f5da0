"""Which commands there are, and how one is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from panels_gateway.commands.backups import backup, restore
from panels_gateway.commands.checking import check_config
from panels_gateway.commands.exits import EXIT_INTERRUPTED, EXPECTED, end
from panels_gateway.commands.panel_files import export, import_
from panels_gateway.commands.parsing import Where
from panels_gateway.commands.verifying import verify
from panels_shared.errors import ConfigError

#: Takes the arguments behind the command's name and returns the exit code.
Command = Callable[[Sequence[str], Where], int]

COMMANDS: Final[Mapping[str, Command]] = {
    "check-config": check_config,
    "backup": backup,
    "restore": restore,
    "export": export,
    "import": import_,
    "verify": verify,
}


def run(arguments: Sequence[str], environment: Mapping[str, str], *, directory: Path) -> int:
    """Runs the command that ``arguments`` begin with; the exit code. ``SystemExit`` after --help."""
    name, *rest = arguments
    try:
        command = COMMANDS.get(name)
        if command is None:
            raise ConfigError(
                f"expected an option or a command ({', '.join(COMMANDS)}), got {name[:80]!r}; "
                "see panels-gateway --help"
            )
        return command(rest, Where(environment, directory))
    except EXPECTED as error:
        return end(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
