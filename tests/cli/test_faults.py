"""Faults: exit codes and what programs are shown."""

from __future__ import annotations

from panels_cli.faults import CommandError, RefusedError, UnreachableError, UsageError


def test_each_fault_has_its_exit_code_and_its_form_for_programs() -> None:
    assert [kind("x").exit_code for kind in (CommandError, UsageError, UnreachableError)] == [1, 2, 3]
    assert UnreachableError("x").shown() == {"code": "UNREACHABLE", "message": "x"}
    refused = RefusedError("FORBIDDEN", "no", hint="ask")
    assert (refused.exit_code, str(refused)) == (1, "no (FORBIDDEN); ask")
