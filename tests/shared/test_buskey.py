"""The bus key, and what is proved with it."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from panels_shared.buskey import (
    beat_id,
    check_bus_key_mode,
    format_bus_key,
    key_file_beside,
    parse_bus_key,
    pool_proof,
    sandbox_ticket,
)
from panels_shared.errors import ConfigError

KEY = bytes(range(32))
A, B = b"a" * 16, b"b" * 16


def test_proofs_are_codes_over_role_and_ids() -> None:
    """Written out, for pools in other languages."""
    assert pool_proof(KEY, A) == hmac.new(KEY, b"panels pool" + A, hashlib.sha256).digest()
    assert sandbox_ticket(KEY, A, B) == hmac.new(KEY, b"panels sandbox" + A + B, hashlib.sha256).digest()


def test_proof_of_one_id_role_or_key_is_none_of_another() -> None:
    proofs = {
        *(pool_proof(key, peer) for key in (KEY, bytes(32)) for peer in (A, B)),
        *(sandbox_ticket(key, *ids) for key in (KEY, bytes(32)) for ids in ((A, B), (B, A), (A, A), (B, B))),
    }
    assert len(proofs) == 12


def test_second_socket_of_a_sandbox_has_an_id_that_no_pool_or_sandbox_has() -> None:
    assert beat_id(A).startswith(A)
    assert len(beat_id(A)) == 17


def test_key_survives_its_file_and_lies_beside_the_socket() -> None:
    content = format_bus_key(KEY)
    assert parse_bus_key(content, path="k") == KEY
    assert parse_bus_key(content.upper().strip(), path="k") == KEY
    assert key_file_beside("ipc:///run/panels/workers.sock") == "/run/panels/workers.sock.key"


@pytest.mark.parametrize(
    "content", [b"", b"s3cret", b"0" * 63, b"0" * 65, b"x" * 64, format_bus_key(KEY) * 2]
)
def test_content_that_is_no_key_is_refused_without_quoting_it(content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"64 hexadecimal digits in k.* openssl rand -hex 32") as refused:
        parse_bus_key(content, path="k")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(("mode", "good"), [(0o600, True), (0o400, True), (0o440, True), (0o644, False),
                                            (0o620, False), (0o602, False), (0o601, False)])  # fmt: skip
def test_file_that_others_may_read_or_change_is_refused(mode: int, good: bool) -> None:
    if good:
        check_bus_key_mode(0o100000 | mode, path="k")
    else:
        with pytest.raises(ConfigError, match=rf"got mode {mode:03o} on k; chmod 600"):
            check_bus_key_mode(0o100000 | mode, path="k")
