"""Revoking tokens: in effect at once, recorded before anybody is told, and there after a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from panels_gateway.access.revocations import Revocation
from panels_gateway.access.tokens import Principal, principal_of
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.journal.records import Revoked, Unrevoked
from panels_gateway.kernel import revoking
from panels_shared.errors import CloseCode, Code, RequestError
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio

NOW = 1_000_000.0  # the gateway's wall clock


def bearer(subject: str, **fields: Any) -> Principal:
    return replace(principal_of(subject, expires_at=NOW + 600, grants=None), **fields)


def revocation(**fields: Any) -> Revocation:
    return Revocation(**{"revoked_at": NOW, "expires_at": NOW + 600, **fields})


async def test_sockets_of_the_bearers_are_closed_and_no_others() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    _, ann = gateway.connect(resident, principal=bearer("ann", token_id="a"))
    _, other = gateway.connect(resident, principal=bearer("ann", token_id="b"))
    _, bob = gateway.connect(resident, principal=bearer("bob"))
    _, anybody = gateway.connect(resident)
    gateway.kernel.revoking.revoke(revocation(token_id="a"))
    await gateway.settle()
    assert ann.closed == (CloseCode.TOKEN_EXPIRED, "the token was revoked")
    assert [client.is_closed for client in (other, bob, anybody)] == [False, False, False]
    gateway.kernel.revoking.revoke(revocation(subject="ann"))
    await gateway.settle()
    assert [client.is_closed for client in (other, bob, anybody)] == [True, False, False]


async def test_nobody_is_told_before_it_is_durable_and_the_bearer_can_do_nothing() -> None:
    journal = MemoryJournal()
    gateway = Gateway(journal)
    resident = await gateway.add()
    connection, socket = gateway.connect(resident, principal=bearer("ann"))
    await gateway.settle()
    journal.hold = True
    revoking = gateway.kernel.revoking
    revoking.revoke(revocation(subject="ann"))
    connection.receive_text('{"type": "TRIGGER", "tool": "t"}')
    await gateway.settle()
    assert revoking.revocations.refuse(bearer("ann"))
    assert (socket.closed, gateway.jobs) == (None, [])
    journal.release(journal.position)
    await gateway.settle()
    assert (socket.closed, gateway.jobs) == ((CloseCode.TOKEN_EXPIRED, "the token was revoked"), [])


async def test_what_was_recorded_is_in_effect_after_a_restart() -> None:
    journal = MemoryJournal()
    gateway = Gateway(journal)
    revoking = gateway.kernel.revoking
    first, _ = revoking.revoke(revocation(subject="ann", before=NOW - 1.00005))
    revoking.revoke(revocation(token_id="a"))
    revoking.revoke(revocation(token_id="gone"))
    revoking.revoke(revocation(token_id="ended", expires_at=NOW + 1))
    revoking.unrevoke(revocation(token_id="gone").name)
    await gateway.settle()
    later = Gateway(journal)
    later.wall_s = NOW + 2
    await later.kernel.revoking.restore()
    found = later.kernel.revoking.revocations
    assert len(found) == 2
    assert found.find(first.name) == first
    assert found.refuse(bearer("ann", issued_at=NOW - 1.00005 - 1e-9))
    assert found.refuse(bearer("bob", token_id="a"))
    assert not found.refuse(bearer("bob", token_id="gone"))


async def test_same_revocation_again_is_recorded_once() -> None:
    gateway = Gateway()
    revoking = gateway.kernel.revoking
    made, is_new = revoking.revoke(revocation(subject="ann", before=NOW))
    await gateway.settle()
    position = gateway.journal.position
    assert is_new
    assert revoking.revoke(revocation(subject="ann", before=NOW - 5)) == (made, False)
    await gateway.settle()
    assert gateway.journal.position == position
    stronger, is_new = revoking.revoke(revocation(subject="ann"))
    assert (stronger.before, is_new) == (None, False)
    await gateway.settle()
    assert gateway.journal.position == position + 1


async def test_number_of_revocations_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revoking, "MAX_REVOCATIONS", 2)
    gateway = Gateway()
    kept = gateway.kernel.revoking
    kept.revoke(revocation(token_id="a"))
    kept.revoke(revocation(token_id="b", expires_at=NOW + 5))
    with pytest.raises(RequestError) as caught:
        kept.revoke(revocation(token_id="c"))
    assert caught.value.code is Code.OVERLOADED
    kept.revoke(revocation(token_id="a", expires_at=NOW + 700))
    gateway.wall_s = NOW + 5
    kept.revoke(revocation(token_id="c"))
    assert len(kept.revocations) == 2


async def test_revocation_that_is_not_there_cannot_be_taken_back() -> None:
    with pytest.raises(RequestError) as caught:
        Gateway().kernel.revoking.unrevoke("none")
    assert caught.value.code is Code.NOT_FOUND


def test_records_have_what_a_revocation_has() -> None:
    record = Revoked("n", 1, 2, None, "ann", 3)
    assert (record.name, Unrevoked("n").name) == ("n", "n")
