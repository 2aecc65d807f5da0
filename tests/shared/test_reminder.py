"""When something that lasts is said."""

from __future__ import annotations

from panels_shared.reminder import Reminder


def times(reminder: Reminder, first_s: int, last_s: int) -> list[int]:
    return [now for now in range(first_s, last_s) if reminder.due(float(now)) is not None]


def test_reminder_is_due_after_a_while_and_then_ever_more_rarely() -> None:
    reminder = Reminder(first_s=10)
    assert reminder.due(1_000.0) is None
    reminder.begin(100.0)
    assert times(reminder, 100, 2_500) == [110, 170, 530, 1_130, 1_730, 2_330]


def test_reminder_says_for_how_long_it_has_lasted() -> None:
    reminder = Reminder(first_s=10)
    reminder.begin(100.0)
    reminder.begin(105.0)
    assert reminder.due(109.9) is None
    assert not reminder.told
    assert reminder.due(112.0) == 12.0
    assert reminder.told


def test_reminder_begins_anew_after_its_end() -> None:
    reminder = Reminder(first_s=10)
    reminder.begin(0.0)
    assert times(reminder, 0, 400) == [10, 70]
    reminder.end()
    assert not reminder.told
    assert times(reminder, 400, 2_000) == []
    reminder.begin(2_000.0)
    assert times(reminder, 2_000, 2_100) == [2_010, 2_070]


def test_reminder_that_is_said_at_once_is_repeated_too() -> None:
    reminder = Reminder(first_s=0)
    reminder.begin(0.0)
    assert times(reminder, 0, 100) == [0, 6, 42]
