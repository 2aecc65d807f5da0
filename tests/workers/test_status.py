"""The reports of a sandbox process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from panels_worker.status import RECORD_BYTES, Report, State, decode_last, describe, encode

REPORTS = st.builds(Report, st.sampled_from(State), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))


@given(st.lists(REPORTS, min_size=1), st.binary(max_size=RECORD_BYTES - 1))
def test_status_decodes_the_newest_report_and_keeps_the_rest(reports: list[Report], rest: bytes) -> None:
    assert decode_last(b"".join(map(encode, reports)) + rest) == (reports[-1], rest)


@given(st.binary(max_size=100))
def test_status_survives_any_bytes(data: bytes) -> None:
    report, rest = decode_last(data)
    assert len(rest) < RECORD_BYTES
    assert report is None or isinstance(report.state, State)


def test_status_caps_a_job_that_runs_for_months() -> None:
    report, _ = decode_last(encode(Report(State.READY, 1, 2**40)))
    assert report is not None
    assert report.busy_ms == 2**32 - 1


def test_describe_puts_exit_codes_in_words() -> None:
    assert describe(-9) == "signal SIGKILL"
    assert describe(75) == "exit code 75 (LOST)"
    assert describe(3) == "exit code 3"
