"""`panels top`: what the gateway and its workers are doing. A shell around ``gauges``."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Final

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from panels_cli import gauges
from panels_cli.api import Api
from panels_cli.faults import UnreachableError
from panels_cli.gauges import Look, Overview
from panels_cli.output import Output, clean
from panels_cli.session import Json, session_of

#: Panels and reasons in the picture.
SHOWN: Final = 15


def top(
    ctx: typer.Context,
    interval: Annotated[float, typer.Option(min=0.1, max=3_600, help="Seconds between two looks.")] = 2.0,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many pictures.")] = None,
    json: Json = False,
) -> None:
    """Show triggers, latency, workers, and which panels fail or use fuel the most, until Ctrl-C.

    It reads the gateway's metrics; a gateway with --admin-listen serves them at that address, so give --url.
    With --json each picture is one line.
    """
    session = session_of(ctx)
    output = session.output(json)
    with session.api() as api:
        before = _look(api)
        live = Live(console=output.console, auto_refresh=False) if output.is_terminal and not json else None
        with live if live is not None else _Nothing():
            while count is None or count > 0:
                time.sleep(interval)
                try:
                    now = _look(api)
                except UnreachableError as exc:
                    if live is None:
                        raise
                    live.update(Text(clean(f"{exc}; trying again"), style="red"), refresh=True)
                    continue
                seen = gauges.overview(before, now)
                before = now
                _show(seen, output, live)
                count = None if count is None else count - 1


class _Nothing:
    """A context that does nothing."""

    def __enter__(self) -> None:
        return

    def __exit__(self, *args: object) -> None:
        return


def _look(api: Api) -> Look:
    return gauges.parse(api.text("/metrics"), time.monotonic())


def _show(seen: Overview, output: Output, live: Live | None) -> None:
    if output.json:
        output.value(asdict(seen))
    elif live is None:
        for line in picture(seen):
            output.line(line)
    else:
        shown = [
            Text(clean(output.fitted(line)), style="bold" if line.isupper() else "") for line in picture(seen)
        ]
        live.update(Group(*shown), refresh=True)


def picture(seen: Overview) -> list[str]:
    """The lines for people."""
    level = seen.levels

    def number(name: str) -> str:
        value = level.get(f"panels_{name}")
        return "-" if value is None else f"{value:,.0f}"

    def size(name: str) -> str:
        value = level.get(name)
        return "-" if value is None else f"{value / 1e6:,.0f} MB"

    triggers = (
        f"triggers  {seen.triggers:,.1f}/s   failed {seen.failed:,.1f}/s   refused {seen.refused:,.1f}/s   "
        f"p50 {_ms(seen.p50_ms)}   p99 {_ms(seen.p99_ms)}"
    )
    workers = (
        f"workers   {number('workers')}   busy {seen.busy:.0%}   waiting {number('jobs_waiting')}   "
        f"running {number('jobs_in_flight')}   behind an exclusive tool {number('jobs_held')}   "
        f"memory {size('panels_pool_memory_bytes')}"
    )
    gateway = (
        f"gateway   {number('connections')} clients   {number('stream_readers')} readers   "
        f"{number('panels')} panels   {number('suspensions')} handlers that wait   "
        f"{number('circuits_open')} suspended tools   memory {size('process_resident_memory_bytes')}"
    )
    record = (
        f"record    {number('journal_lag_batches')} turns not folded   {size('panels_journal_backlog_bytes')}"
    )
    lines = [triggers, workers, gateway, record]
    if seen.failures:
        lines += ["", "FAILURES/S"]
        lines += [f"{rate:10,.1f}  {reason}" for reason, rate in seen.failures[:SHOWN]]
    if seen.failing:
        lines += ["", "FAILED/MIN  PANEL"]
        lines += [f"{failed:10,.0f}  {panel}" for panel, failed in seen.failing[:SHOWN]]
    if seen.panels:
        total = sum(fuel for _, fuel in seen.panels) or 1.0
        lines += ["", "FUEL/MIN         SHARE  PANEL"]
        lines += [f"{fuel:15,.0f}  {fuel / total:5.0%}  {panel}" for panel, fuel in seen.panels[:SHOWN]]
    return lines


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return "> 16 s" if value == float("inf") else f"≤ {value:,.2f} ms"
