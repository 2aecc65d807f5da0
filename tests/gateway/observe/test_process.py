"""What is told of the gateway's own process."""

from __future__ import annotations

import os
from pathlib import Path

from panels_gateway.observe.process import ProcessMetrics


def test_the_names_that_everybody_uses_are_there_and_true() -> None:
    found = {sample.family.name: sample for sample in ProcessMetrics().samples()}
    assert found.keys() == {
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
    }
    assert found["process_cpu_seconds_total"].family.kind == "counter"
    assert found["process_resident_memory_bytes"].family.kind == "gauge"
    assert found["process_resident_memory_bytes"].value > 1_000_000
    with Path(os.devnull).open("rb"):
        more = {sample.family.name: sample.value for sample in ProcessMetrics().samples()}
    assert more["process_open_fds"] > 0
