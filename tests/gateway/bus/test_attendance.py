"""What the log says while nobody can run triggers."""

from __future__ import annotations

import logging

from panels_gateway.bus.attendance import PATIENCE_S, Attendance


def test_attendance_warns_at_once_when_the_last_sandbox_is_gone() -> None:
    attendance = Attendance("ipc:///w.sock")
    assert attendance.look(2, 0, 1.0) is None
    assert attendance.look(1, 0, 2.0) is None
    line = attendance.look(0, 3, 3.0)
    assert line is not None
    assert line.level == logging.WARNING
    assert line.text.startswith("the last sandbox is gone; 3 triggers wait")
    assert "--gateway ipc:///w.sock" in line.text
    assert attendance.look(0, 3, 4.0) is None


def test_attendance_repeats_itself_and_says_for_how_long() -> None:
    attendance = Attendance("ipc:///w.sock")
    attendance.look(1, 0, 0.0)
    said = [
        (now, line.text) for now in range(1, 60) if (line := attendance.look(0, 0, float(now))) is not None
    ]
    assert [now for now, _ in said] == [1, 7, 43]
    assert said[1][1].startswith("no sandbox has been here for 6 s")


def test_attendance_says_when_somebody_is_back() -> None:
    attendance = Attendance("ipc:///w.sock")
    attendance.look(1, 0, 0.0)
    attendance.look(0, 0, 1.0)
    line = attendance.look(1, 0, 3.5)
    assert line is not None
    assert (line.level, line.text) == (logging.INFO, "a sandbox is here again, after 2.5 s without any")
    assert attendance.look(1, 0, 4.0) is None


def test_attendance_gives_a_gateway_that_starts_time_for_its_first_sandbox() -> None:
    attendance = Attendance("ipc:///w.sock")
    assert attendance.look(0, 0, 100.0) is None
    assert attendance.look(0, 0, 100.0 + PATIENCE_S / 2) is None
    assert attendance.look(1, 0, 100.0 + PATIENCE_S - 1) is None, "it came in time: nothing to say"

    late = Attendance("ipc:///w.sock")
    assert late.look(0, 0, 100.0) is None
    line = late.look(0, 0, 100.0 + PATIENCE_S)
    assert line is not None
    assert line.text.startswith(f"no sandbox has been here for {PATIENCE_S:.0f} s")
