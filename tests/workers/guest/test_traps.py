from __future__ import annotations

import pytest

from panels_worker.guest.traps import TrapKind, trap_of


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (0, TrapKind.STACK, "call stack exhausted"),
        (1, TrapKind.MEMORY, "out of bounds memory access"),
        (7, TrapKind.OTHER, "integer divide by zero"),
        (10, TrapKind.INTERRUPT, "interrupted by its deadline"),
        (11, TrapKind.FUEL, "out of fuel"),
        (250, TrapKind.OTHER, "trapped"),
        (None, TrapKind.OTHER, "trapped"),
    ],
)
def test_trap_of_names_known_codes_and_admits_newer_ones(code: int | None, kind: TrapKind, text: str) -> None:
    trap = trap_of(code)
    assert (trap.kind, trap.text, str(trap)) == (kind, text, text)
