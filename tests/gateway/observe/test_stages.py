"""Histograms of a trigger's stages."""

from __future__ import annotations

import re
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.observe.histogram import Histogram
from panels_gateway.observe.metrics import exposition
from panels_gateway.observe.stages import NAMES, STAGE_SECONDS, Stages


@given(st.lists(st.floats(-1.0, 100.0), max_size=50))
def test_each_duration_counts_in_all_buckets_that_are_not_below_it(durations: list[float]) -> None:
    histogram = Histogram()
    for duration in durations:
        histogram.add(duration)
    assert sum(histogram.counts) == len(durations)
    total = 0
    for power, count in enumerate(histogram.counts[:-1]):
        total += count
        assert total == sum(duration * 1e6 <= 2**power for duration in durations)
    assert histogram.sum_s == pytest.approx(sum(max(0.0, duration) for duration in durations))


@given(st.lists(st.integers(0, 10**9), max_size=50))
def test_whole_microseconds_count_like_seconds(durations: list[int]) -> None:
    whole, seconds = Histogram(), Histogram()
    for micros in durations:
        whole.add_us(micros)
        seconds.add(micros / 1e6)
    assert sum(whole.counts) == len(durations)
    for power in range(len(whole.counts) - 1):
        assert sum(whole.counts[: power + 1]) == sum(micros <= 2**power for micros in durations)
    assert whole.sum_s == pytest.approx(seconds.sum_s)


def test_finished_job_is_split_into_its_stages() -> None:
    stages = Stages()
    stages.finished(10.0, 10.25, 500_000, 11.0, perf_counter())
    sums = {name: histogram.sum_s for name, histogram in stages.histograms.items()}
    assert sums["queue"] == pytest.approx(0.25)
    assert sums["execute"] == pytest.approx(0.5)
    assert sums["wire"] == pytest.approx(0.25)
    assert 0 < sums["commit"] < 1
    assert stages.finishes == 64


def test_exposition_is_what_prometheus_reads() -> None:
    stages = Stages(1)
    stages.flushed(perf_counter())
    lines = (
        exposition(sample for sample in stages.samples() if sample.family is STAGE_SECONDS)
        .decode()
        .splitlines()
    )
    assert lines[1] == "# TYPE panels_stage_seconds histogram"
    sample = re.compile(
        r'panels_stage_seconds_(bucket\{stage="[a-z]+",le="[0-9.e+Inf-]+"\}|(sum|count)\{stage="[a-z]+"\}) [0-9.e-]+'
    )
    assert all(sample.fullmatch(line) for line in lines[2:])
    assert 'panels_stage_seconds_count{stage="send"} 1' in lines
    assert {name for name in NAMES if f'_count{{stage="{name}"}} 0' in "\n".join(lines)} == set(NAMES) - {
        "send"
    }


def test_nothing_is_ever_timed_when_it_is_off() -> None:
    assert Stages(0).decodes > 10**15
