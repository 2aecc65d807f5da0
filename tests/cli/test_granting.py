"""Claims of development tokens."""

from __future__ import annotations

import pytest

from panels_cli.faults import UsageError
from panels_cli.granting import claims, duration_s, grant, secret_of


def test_durations_have_units() -> None:
    assert [duration_s(text) for text in ("90", "5s", "30m", "12h", "1d")] == [90, 5, 1800, 43200, 86400]
    for text in ("", "0", "1w", "-1", "367d", "1.5h"):
        with pytest.raises(UsageError, match="--ttl"):
            duration_s(text)


def test_grants_are_panels_and_permissions() -> None:
    assert grant("a:b-*=read,trigger:*,answer:x") == {
        "id": "a:b-*",
        "allow": ["read", "trigger:*", "answer:x"],
    }
    for text in ("", "a", "a=", "a=write", "a=trigger:", "=read", "a b=read", "a=read:x"):
        with pytest.raises(UsageError, match="--allow"):
            grant(text)


def test_claims_have_only_what_was_asked_for() -> None:
    assert claims(None, 10, (), now_s=5) == {"iat": 5, "exp": 15}
    assert claims("ann", 10, ["p=read"], now_s=5)["panels"] == [{"id": "p", "allow": ["read"]}]


def test_secret_is_read_as_the_gateway_reads_it() -> None:
    assert secret_of(b"s" * 32 + b"\r\n") == b"s" * 32
    with pytest.raises(UsageError, match="openssl"):
        secret_of(b"short\n")
