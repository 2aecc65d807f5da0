"""What a service manager is told, and when."""

from __future__ import annotations

import pytest

from panels_shared.notices import WATCHDOG, Notices, reloading

PID = 77


def taken(**environ: str) -> Notices:
    return Notices.take({"NOTIFY_SOCKET": "/run/notify", **environ}, pid=PID)


def test_notices_are_taken_out_of_the_environment() -> None:
    environ = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "77", "HOME": "/"}
    notices = Notices.take(environ, pid=PID)
    assert (notices.address, notices.interval_s) == ("/run/n", 15.0)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    ("address", "expected"),
    [("@x", "\0x"), ("/x", "/x"), ("", None), ("@", None), ("vsock:2:1", None), ("/" + "x" * 107, None)],
)
def test_notices_go_to_paths_and_abstract_names(address: str, expected: str | None) -> None:
    assert Notices.take({"NOTIFY_SOCKET": address}, pid=PID).address == expected


def test_notices_without_an_address_are_not_due() -> None:
    notices = Notices.take({"WATCHDOG_USEC": "1000000"}, pid=PID)
    assert (notices.address, notices.deadline_s, notices.due(1e9)) == (None, None, None)


@pytest.mark.parametrize("usec", ["", "0", "x", "-1", "1.5", "9" * 16, "\u0661"])
def test_notices_ignore_an_interval_that_is_none(usec: str) -> None:
    assert taken(WATCHDOG_USEC=usec).interval_s is None


def test_notices_ignore_an_interval_for_another_process() -> None:
    assert taken(WATCHDOG_USEC="1000000", WATCHDOG_PID="78").interval_s is None


def test_notices_are_due_twice_in_the_time_that_the_manager_waits() -> None:
    notices = taken(WATCHDOG_USEC="10000000")
    assert notices.due(100.0) == WATCHDOG
    assert notices.deadline_s == 105.0
    assert notices.due(104.9) is None
    assert notices.due(105.5) == WATCHDOG


def test_reloading_says_when_it_began() -> None:
    assert reloading(12.5) == b"RELOADING=1\nMONOTONIC_USEC=12500000"
