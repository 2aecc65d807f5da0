from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from panels_worker.artifacts import (
    ABANDONED_S,
    BLOCK_BYTES,
    MAX_ARTIFACT_BYTES,
    Artifact,
    ArtifactStore,
    Kind,
)

DIGEST = bytes(range(32))
ARTIFACT = Artifact(Kind.MODULE, b"code" * 100)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.create(tmp_path)


def test_store_gives_back_what_was_put(store: ArtifactStore) -> None:
    assert store.get(DIGEST) is None
    store.put(DIGEST, ARTIFACT)
    assert store.get(DIGEST) == ARTIFACT


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


def digests(count: int) -> list[bytes]:
    return [bytes([number]) * 32 for number in range(count)]


def fill(store: ArtifactStore, folder: Path, count: int) -> list[bytes]:
    """Puts ``count`` artifacts of one block each, last used one second after another, long ago."""
    made = digests(count)
    for number, digest in enumerate(made):
        store.put(digest, ARTIFACT)
        os.utime(folder / digest.hex(), (number, number))
    return made


def left(store: ArtifactStore, made: list[bytes]) -> list[int]:
    return [number for number, digest in enumerate(made) if store.holds(digest)]


def test_trim_removes_what_was_not_used_for_longest(store: ArtifactStore, tmp_path: Path) -> None:
    made = fill(store, tmp_path, 10)
    assert store.trim(max_bytes=8 * BLOCK_BYTES) == 3
    assert left(store, made) == list(range(3, 10))
    assert ArtifactStore.create(tmp_path).key == store.key


def test_trim_leaves_a_folder_within_its_bound_alone(store: ArtifactStore, tmp_path: Path) -> None:
    made = fill(store, tmp_path, 8)
    assert store.trim(max_bytes=8 * BLOCK_BYTES) == 0
    assert left(store, made) == list(range(8))


@pytest.mark.parametrize("times", [(100, 0), (0, 100)], ids=["read", "written"])
def test_trim_keeps_what_was_read_or_written_lately(
    store: ArtifactStore, tmp_path: Path, times: tuple[int, int]
) -> None:
    made = fill(store, tmp_path, 10)
    os.utime(tmp_path / made[0].hex(), times)
    store.trim(max_bytes=8 * BLOCK_BYTES)
    assert left(store, made) == [0, *range(4, 10)]


def test_trim_keeps_what_was_loaded_lately(store: ArtifactStore, tmp_path: Path) -> None:
    made = fill(store, tmp_path, 10)
    assert ArtifactStore.open(tmp_path, store.key).get(made[1]) == ARTIFACT
    store.trim(max_bytes=8 * BLOCK_BYTES)
    assert left(store, made) == [1, *range(4, 10)]


def test_trim_never_removes_what_it_is_told_to_keep(store: ArtifactStore, tmp_path: Path) -> None:
    made = fill(store, tmp_path, 4)
    store.trim(keep={made[0], made[2]}, max_bytes=0)
    assert left(store, made) == [0, 2]


def test_trim_never_removes_what_is_used_while_it_works(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fill(store, tmp_path, 3)
    look = ArtifactStore._files

    def look_and_load(self: ArtifactStore) -> list[tuple[float, int, Path]]:
        files = look(self)
        store.get(made[1])
        return files

    monkeypatch.setattr(ArtifactStore, "_files", look_and_load)
    assert store.trim(max_bytes=0) == 2
    assert left(store, made) == [1]


def test_trim_reads_the_folder_only_when_it_may_have_outgrown_its_bound(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = ArtifactStore._files

    def count(self: ArtifactStore) -> list[tuple[float, int, Path]]:
        nonlocal looks
        looks += 1
        return look(self)

    monkeypatch.setattr(ArtifactStore, "_files", count)
    for number in range(100):
        store.put(bytes([number]) * 32, ARTIFACT)
        store.trim(max_bytes=16 * BLOCK_BYTES)
    # the first time, and each time that the eighth which was made free is used up
    assert looks == 1 + -(-(100 - 16) // 3)
    assert len(left(store, digests(100))) <= 16


def test_trim_removes_files_that_a_killed_pool_left(store: ArtifactStore, tmp_path: Path) -> None:
    for name, age_s in (("new.abandoned", ABANDONED_S + 60), ("new.underway", 0.0)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age_s, time.time() - age_s))
    store.trim()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "new.underway"]


def test_get_has_the_whole_artifact_or_none_while_another_thread_removes_it(
    store: ArtifactStore, tmp_path: Path
) -> None:
    artifact = Artifact(Kind.MODULE, os.urandom(200_000))
    done = threading.Event()

    def put_and_trim() -> None:
        while not done.is_set():
            store.put(DIGEST, artifact)
            store.trim(max_bytes=0)

    thread = threading.Thread(target=put_and_trim)
    thread.start()
    reader = ArtifactStore.open(tmp_path, store.key)
    try:
        found = {reader.get(DIGEST) for _ in range(2_000)}
        while found == {None}:  # the other thread had no turn between its two steps yet
            found.add(reader.get(DIGEST))
    finally:
        done.set()
        thread.join()
    assert found <= {None, artifact}
    assert artifact in found


def test_get_knows_no_artifact_of_another_kind(store: ArtifactStore, tmp_path: Path) -> None:
    body = b"\x09payload"
    (tmp_path / DIGEST.hex()).write_bytes(store._mac(DIGEST, body) + body)
    assert store.get(DIGEST) is None
