"""The lines of handlers that are kept to be shown: a model beside them, and their bounds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from panels_gateway.observe import recent_lines
from panels_gateway.observe.recent_lines import MAX_JOB_LINES, MAX_LINE_CHARS, MAX_LINES, RecentLines
from panels_shared.outcome import Failed, LogLine, Reason, Usage

FAILED = Failed(Usage(), Reason.HANDLER_ERROR, "no", 3, 5)


def take(kept: RecentLines, panel: int, *texts: str, failed: Failed | None = None) -> None:
    kept.take(panel, "t", [LogLine(1, text) for text in texts], failed, 1_000)


def test_lines_come_with_numbers_and_failures_with_their_place() -> None:
    kept = RecentLines()
    take(kept, 1, "a", "b", failed=FAILED)
    take(kept, 2, "other")
    assert [tuple(line) for line in kept.after(1, 1)] == [
        (2, 1_000, "t", "info", "b", "", (0, 0)),
        (3, 1_000, "t", "error", "no", "HANDLER_ERROR", (3, 5)),
    ]
    assert (kept.last(1), kept.last(2), kept.last(3)) == (3, 1, 0)
    assert kept.after(1, 3) == kept.after(3, 0) == []


def test_job_that_logs_much_is_cut_and_its_numbers_say_so() -> None:
    kept = RecentLines()
    take(kept, 1, "first")
    take(kept, 1, *(str(number) for number in range(1_000)))
    numbers = [line.number for line in kept.after(1, 0)]
    assert numbers == [1, *range(1_001 - MAX_JOB_LINES + 1, 1_002)]
    kept.take(1, "t", [LogLine(9, "x" * 100_000)], None, 1)
    (line,) = kept.after(1, kept.last(1) - 1)
    assert (line.level, len(line.text)) == ("info", MAX_LINE_CHARS)


def test_panel_keeps_so_many_lines() -> None:
    kept = RecentLines()
    for number in range(MAX_LINES + 10):
        take(kept, 1, str(number))
    lines = kept.after(1, 0)
    assert len(lines) == MAX_LINES
    assert lines[-1].number == kept.last(1) == MAX_LINES + 10


def test_listeners_are_told_of_their_panel_until_they_do_not_listen() -> None:
    kept, told = RecentLines(), list[int]()

    def listener() -> None:
        told.append(kept.last(1))

    kept.listen(1, listener)
    take(kept, 2, "x")
    take(kept, 1, "x", "y")
    kept.ignore(1, listener)
    take(kept, 1, "z")
    assert told == [2]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.lists(st.integers(0, 3_000), max_size=4), st.booleans()), max_size=60
    )
)
def test_what_is_kept_is_the_end_of_what_was_logged(steps: list[tuple[int, list[int], bool]]) -> None:
    kept = RecentLines()
    said: dict[int, list[str]] = {}
    most, recent_lines.MAX_TOTAL_CHARS = recent_lines.MAX_TOTAL_CHARS, 20_000  # type: ignore[misc]
    try:
        for panel, sizes, failing in steps:
            texts = ["x" * size for size in sizes]
            take(kept, panel, *texts, failed=FAILED if failing else None)
            said.setdefault(panel, []).extend([*texts, *(["no"] if failing else [])])
            total = 0
            for known, all_of in said.items():
                lines = kept.after(known, 0)
                total += sum(recent_lines.LINE_CHARS + len(line.text) for line in lines)
                assert [line.text for line in lines] == (all_of[-len(lines) :] if lines else [])
            assert total == kept._chars <= 20_000
    finally:
        recent_lines.MAX_TOTAL_CHARS = most  # type: ignore[misc]
