"""Which tokens a list of revocations refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.access.revocations import Revocation, Revocations
from panels_gateway.access.tokens import ANONYMOUS, Principal, principal_of


def bearer(subject: str | None = "ann", **fields: Any) -> Principal:
    return replace(principal_of(subject, expires_at=2_000.0, grants=None), **fields)


def revoked(**fields: Any) -> Revocation:
    return Revocation(**{"revoked_at": 100.0, "expires_at": 1_000.0, **fields})


def listed(*revocations: Revocation) -> Revocations:
    made = Revocations()
    made.restore(revocations)
    return made


def test_token_is_refused_by_its_id() -> None:
    found = listed(revoked(token_id="a"))
    assert found.refuse(bearer(token_id="a"))
    assert not found.refuse(bearer(token_id="b"))
    assert not found.refuse(bearer())
    assert not found.refuse(bearer("a"))


def test_tokens_are_refused_by_their_subject() -> None:
    found = listed(revoked(subject="ann"))
    assert found.refuse(bearer("ann"))
    assert found.refuse(bearer("ann", issued_at=10_000.0, token_id="x"))
    assert not found.refuse(bearer("bob", token_id="ann"))
    assert not found.refuse(ANONYMOUS)


def test_tokens_issued_later_are_good() -> None:
    found = listed(revoked(subject="ann", before=500.0))
    assert found.refuse(bearer(issued_at=499.9))
    assert not found.refuse(bearer(issued_at=500.0))
    assert found.refuse(bearer(issued_at=None)), "a token that does not say when it was issued may be old"


def test_revocation_ends() -> None:
    found = listed(revoked(token_id="a"), revoked(subject="ann", expires_at=2_000.0))
    found.drop_ended(999.9)
    assert len(found) == 2
    found.drop_ended(1_000.0)
    assert len(found) == 1
    assert not found.refuse(bearer("bob", token_id="a"))
    assert found.refuse(bearer("ann"))


def test_revocation_is_taken_back() -> None:
    made = revoked(subject="ann")
    found = listed(made, revoked(token_id="a"))
    found.remove(made.name)
    found.remove(made.name)
    assert found.find(made.name) is None
    assert not found.refuse(bearer())
    assert found.refuse(bearer(token_id="a"))


def test_names_are_of_kind_and_text() -> None:
    assert revoked(subject="a").name == revoked(subject="a", before=1.0, expires_at=5.0).name
    assert len({revoked(subject="a").name, revoked(token_id="a").name, revoked(subject="b").name}) == 3


def test_pages_are_in_order_of_names() -> None:
    all_ = sorted((revoked(token_id=str(number)) for number in range(5)), key=lambda made: made.name)
    found = listed(*all_)
    assert found.page(after="", limit=2) == all_[:2]
    assert found.page(after=all_[1].name, limit=9) == all_[2:]


times = st.one_of(st.none(), st.floats(0, 1_000))


@given(first=times, second=times, issued_at=times, ends=st.tuples(st.floats(1, 9), st.floats(1, 9)))
def test_merging_never_makes_a_revocation_weaker(
    first: float | None, second: float | None, issued_at: float | None, ends: tuple[float, float]
) -> None:
    one = revoked(subject="ann", before=first, expires_at=ends[0])
    other = revoked(subject="ann", before=second, expires_at=ends[1])
    principal = bearer(issued_at=issued_at)
    merged = one.merged(other)
    assert merged.concerns(principal) == (one.concerns(principal) or other.concerns(principal))
    assert merged.expires_at == max(ends)
    assert merged.name == one.name


@pytest.mark.parametrize("made", [revoked(token_id="a"), revoked(subject="ann")])
def test_later_revocation_of_a_name_takes_the_place_of_the_first(made: Revocation) -> None:
    found = listed(made, replace(made, expires_at=3_000.0))
    assert len(found) == 1
    found.remove(made.name)
    assert not found.refuse(bearer("ann", token_id="a"))
