"""The command ``panels``: an HTTP and WebSocket client of one gateway.

Processes and threads
    One process. `panels watch` has a second thread, in which ``websockets`` reads the socket.

Timeouts
    10 s to connect; an HTTP answer may pause for 120 s. A handler that waits is asked about again every ten
    seconds or so, for as long as it takes, and `panels watch` connects again for as long as it takes.

Exit codes
    See ``panels_cli.faults``. What went wrong is one sentence on standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from panels_cli.app import app
from panels_cli.faults import EXIT_INTERRUPTED, EXIT_REFUSED, EXIT_USAGE, CommandError, UsageError
from panels_cli.output import Output


def run(arguments: Sequence[str]) -> int:
    """Runs one command; its exit code."""
    output = Output(as_json="--json" in arguments)
    try:
        code = app(list(arguments), prog_name="panels", standalone_mode=False)
    except CommandError as fault:
        report(output, fault)
        return fault.exit_code
    except typer.TyperException as exc:
        text = exc.format_message().rstrip(".")
        report(output, UsageError(f"{text[:1].lower()}{text[1:]}; panels COMMAND --help says more"))
        return EXIT_USAGE
    except typer.Abort:
        output.note("panels: nothing was done")
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0


def report(output: Output, fault: CommandError) -> None:
    """Prints a fault on standard error."""
    if output.json:
        output.fault(fault.shown())
        return
    output.note(("panels:", "bold red"), f" {fault}")
    for line in fault.appendix:
        output.note(f"    {line}")


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
