"""Reading history while the journal is too far behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from panels_gateway.journal.journal import Journal, LateError
from panels_gateway.kernel.history import Histories
from panels_shared.errors import Code, RequestError


async def late(*_: object, **__: object) -> None:
    raise LateError("waited in vain")


async def nothing() -> None:
    return


@pytest.mark.parametrize(
    "read",
    [
        lambda histories, resident: histories.state_at(resident, 1),
        lambda histories, resident: histories.of_key(resident, "k", limit=1),
    ],
    ids=["state_at", "of_key"],
)
def test_read_of_a_late_journal_is_overloaded(read: Callable[[Histories, Any], Awaitable[object]]) -> None:
    journal = cast("Journal", cast("Any", SimpleNamespace(state_at=late, key_history=late)))
    turn: Any = SimpleNamespace(read=nothing)
    resident: Any = SimpleNamespace(panel=SimpleNamespace(number=1, seq=2, state={}))

    async def run() -> None:
        with pytest.raises(RequestError) as caught:
            await read(Histories(journal, turn), resident)
        assert caught.value.code is Code.OVERLOADED
        assert caught.value.details == {"retryAfterMs": 1_000, "scope": "journal"}

    asyncio.run(run())
