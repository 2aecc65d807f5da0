from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from panels_worker.artifacts import MAX_ARTIFACT_BYTES, Artifact, ArtifactStore, Kind

DIGEST = bytes(range(32))
ARTIFACT = Artifact(Kind.MODULE, b"code" * 100)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.create(tmp_path)


def test_store_gives_back_what_was_put(store: ArtifactStore) -> None:
    assert store.get(DIGEST) is None
    store.put(DIGEST, ARTIFACT)
    assert store.get(DIGEST) == ARTIFACT
    assert store.touch(DIGEST)


def test_store_made_again_has_the_same_key(store: ArtifactStore, tmp_path: Path) -> None:
    store.put(DIGEST, ARTIFACT)
    assert ArtifactStore.create(tmp_path).get(DIGEST) == ARTIFACT
    assert ArtifactStore.open(tmp_path, store.key).get(DIGEST) == ARTIFACT
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_store_refuses_every_flipped_byte(store: ArtifactStore, tmp_path: Path) -> None:
    store.put(DIGEST, ARTIFACT)
    path = tmp_path / DIGEST.hex()
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 64)):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        assert store.get(DIGEST) is None, at
    path.write_bytes(whole[:-1])
    assert store.get(DIGEST) is None
    path.write_bytes(whole)
    assert store.get(DIGEST) == ARTIFACT


def test_store_refuses_an_artifact_under_another_name_or_key(store: ArtifactStore, tmp_path: Path) -> None:
    store.put(DIGEST, ARTIFACT)
    other = bytes(32)
    (tmp_path / other.hex()).write_bytes((tmp_path / DIGEST.hex()).read_bytes())
    assert store.get(other) is None
    assert ArtifactStore.open(tmp_path, os.urandom(32)).get(DIGEST) is None


def test_store_refuses_a_key_of_another_length(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        ArtifactStore.create(tmp_path)


def test_store_refuses_what_is_too_large(store: ArtifactStore) -> None:
    with pytest.raises(ValueError, match="at most"):
        store.put(DIGEST, Artifact(Kind.SCRIPT, bytes(MAX_ARTIFACT_BYTES + 1)))


def test_store_trims_what_was_not_used_for_longest(store: ArtifactStore, tmp_path: Path) -> None:
    for number in range(4):
        digest = bytes([number]) * 32
        store.put(digest, ARTIFACT)
        os.utime(tmp_path / digest.hex(), (number, number))
    size = (tmp_path / (b"\0" * 32).hex()).stat().st_size
    assert store.trim(2 * size) == 2
    assert [store.get(bytes([n]) * 32) is not None for n in range(4)] == [False, False, True, True]
    assert store.key
