"""Where a trigger's time goes: a histogram for each stage, from a sample of all triggers.

    decode   a client's text frame becomes a message queue    the job waits in the gateway wire     from there
    to the worker and back, its own queue there included execute  the handler, as the worker measured it
    commit   the result becomes state, messages and an answer send     what one turn of the loop has for all
    clients is handed to their sockets

Timing every trigger would cost several per cent of the gateway's time; one in sixty-four costs
what counting to that costs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from time import perf_counter
from typing import Final

from panels_gateway.observe.histogram import Histogram
from panels_gateway.observe.metrics import Family, Sample

NAMES: Final = ("decode", "queue", "wire", "execute", "commit", "send")
OUTCOMES: Final = ("completed", "failed")
STAGE_SECONDS: Final = Family(
    "panels_stage_seconds",
    "histogram",
    "Where the time of a trigger goes, by stage, of a sample of triggers.",
    "stage",
)
TRIGGER_SECONDS: Final = Family(
    "panels_trigger_seconds",
    "histogram",
    "Time from a trigger's arrival to its commit or failure, by outcome, but for handlers that waited.",
    "outcome",
)


class Stages:
    """See the module's docstring. ``every``: one in so many is timed, 0 for none.

    ``whole`` has every trigger, by outcome, from its arrival to its commit; those whose handlers waited for
    something are not in it.

    ``decodes``, ``finishes`` and ``flushes`` count down; whoever takes one to zero times that
    one and calls ``again``.
    """

    __slots__ = ("again", "decodes", "finishes", "flushes", "histograms", "whole")

    def __init__(self, every: int = 64) -> None:
        self.again: int = every or sys.maxsize
        self.decodes = self.finishes = self.flushes = self.again
        self.histograms = {name: Histogram() for name in NAMES}
        self.whole = {name: Histogram() for name in OUTCOMES}

    def decoded(self, began_s: float) -> None:
        """A frame that began to be decoded at ``began_s`` of ``perf_counter`` is a message."""
        self.decodes = self.again
        self.histograms["decode"].add(perf_counter() - began_s)

    def finished(
        self, submitted_s: float, sent_s: float, execution_us: int, accepted_s: float, began_s: float
    ) -> None:
        """A trigger is committed and answered.

        The first two times and ``accepted_s`` are of the kernel's clock, ``began_s`` is of ``perf_counter``.
        """
        self.finishes = self.again
        histograms = self.histograms
        execute_s = min(max(execution_us, 0), 60_000_000) / 1e6
        histograms["queue"].add(sent_s - submitted_s)
        histograms["wire"].add(accepted_s - sent_s - execute_s)
        histograms["execute"].add(execute_s)
        histograms["commit"].add(perf_counter() - began_s)

    def flushed(self, began_s: float) -> None:
        """What a turn had for clients is in their transports."""
        self.flushes = self.again
        self.histograms["send"].add(perf_counter() - began_s)

    def samples(self) -> Iterator[Sample]:
        """All histograms, cumulative by bucket."""
        for family, histograms in ((STAGE_SECONDS, self.histograms), (TRIGGER_SECONDS, self.whole)):
            for name, histogram in histograms.items():
                yield from histogram.samples(family, name)
