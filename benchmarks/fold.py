"""What folding costs, what it takes on the disk, and what it takes to load one panel of many.

    python -m benchmarks.fold [--commits 1000000] [--panels 10] [--many 100000] [--folder DIR]

CPU is that of the folding process alone; batches are encoded before the clock starts, and
decoding them is told apart.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from panels_gateway.journal import schema
from panels_gateway.journal.folding import Folding
from panels_gateway.journal.records import Batch, Created, Key, Ran, Record, Source, decode, encode
from panels_gateway.journal.store import Store
from panels_shared.handlers import handler_digest
from panels_shared.limits import MIB
from panels_shared.outcome import Completed, Usage

_SOURCE = b"export default (args, panel) => { panel.state.count += args.by }"
_DIGEST = handler_digest("javascript", "", _SOURCE)
_DEFINITION = b'{"kind":"counter","tools":[{"name":"increment","handler":"' + _DIGEST.hex().encode() + b'"}]}'
_START_MS = 1_760_000_000_000


def main() -> None:
    """Runs what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=1_000_000)
    parser.add_argument("--panels", type=int, default=10)
    parser.add_argument("--turn", type=int, default=8, help="commits of a batch")
    parser.add_argument("--run", type=int, default=1_024, help="batches of a fold")
    parser.add_argument("--many", type=int, default=100_000, help="panels of 1 kB, of which one is loaded")
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    # as the folding process does: records make no cycles
    gc.disable()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        hot(Path(folder) / "hot.db", options.commits, options.panels, options.turn, options.run, keyed=False)
        hot(
            Path(folder) / "keyed.db",
            options.commits // 10,
            options.panels,
            options.turn,
            options.run,
            keyed=True,
        )
        wide(Path(folder) / "wide.db", options.commits // 20)
        many(Path(folder) / "many.db", options.many)


def hot(path: Path, commits: int, panels: int, turn: int, run: int, *, keyed: bool) -> None:
    """A few panels, each with many commits in every fold."""
    schema.prepare(path)
    folding = Folding(path)
    folding.fold([Batch(1, 1, _made(range(1, panels + 1), 8))], now_ms=_START_MS)
    decoding = folded = waited = 0.0
    seqs = dict.fromkeys(range(1, panels + 1), 0)
    done = 0
    report = max(1, commits // 10)
    print(f"{commits} commits on {panels} panels, {turn} a batch, {run} batches a fold, keys: {keyed}")
    while done < commits:
        encoded: list[bytes] = []
        for index in range(run):
            records: list[Record] = [_ran(seqs, (done + n) % panels + 1, keyed) for n in range(turn)]
            encoded.append(encode(Batch(folding.position + 1 + index, 1, records)))
            done += turn
        start = time.process_time()
        batches = [decode(data) for data in encoded]
        decoding += time.process_time() - start
        start, wall = time.process_time(), time.perf_counter()
        folding.fold(batches, now_ms=_START_MS + done)
        if folding.wal_bytes > 4 * MIB:
            folding.checkpoint()
        folded += time.process_time() - start
        waited += time.perf_counter() - wall
        if done // report != (done - run * turn) // report:
            size = path.stat().st_size + folding.wal_bytes
            print(f"  {done:>9} commits: {size / MIB:7.1f} MiB on disk")
    print(
        f"  per commit: decoding {1e6 * decoding / done:.2f} us, folding {1e6 * folded / done:.2f} us of "
        f"CPU, {1e6 * waited / done:.2f} us of time; folding is {folded / decoding:.2f} times decoding"
    )
    folding.close()


def wide(path: Path, panels: int) -> None:
    """Many panels, each with one commit in a fold: nothing to coalesce."""
    schema.prepare(path)
    folding = Folding(path)
    seqs = dict.fromkeys(range(1, panels + 1), 0)
    for chunk in _numbers(panels, 10_000):
        folding.fold([Batch(folding.position + 1, 1, _made(chunk, 8))], now_ms=_START_MS)
        folding.checkpoint()
    start = time.process_time()
    for chunk in _numbers(panels, 8_192):
        records: list[Record] = [_ran(seqs, number, False) for number in chunk]
        folding.fold([Batch(folding.position + 1, 1, records)], now_ms=_START_MS)
        folding.checkpoint()
    print(
        f"{panels} panels with one commit each: "
        f"{1e6 * (time.process_time() - start) / panels:.1f} us of CPU a commit"
    )
    folding.close()


def many(path: Path, panels: int) -> None:
    """Many panels at rest: the time to open the store, to load one, to list a page of them."""
    schema.prepare(path)
    folding = Folding(path)
    start = time.perf_counter()
    for chunk in _numbers(panels, 10_000):
        folding.fold([Batch(folding.position + 1, 1, _made(chunk, 1_000))], now_ms=_START_MS)
        folding.checkpoint()
    print(
        f"{panels} panels of 1 kB: made in {time.perf_counter() - start:.1f} s, "
        f"{path.stat().st_size / MIB:.0f} MiB"
    )
    folding.close()
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    start = time.perf_counter()
    store = Store(path)
    position = store.folded().position
    opened = time.perf_counter()
    assert store.load(f"panel-{panels // 2}") is not None
    cold = time.perf_counter()
    for number in range(1, 1_001):
        store.load(f"panel-{number * (panels // 1_001)}")
    warm = time.perf_counter()
    store.summaries(after=f"panel-{panels // 3}", limit=100)
    listed = time.perf_counter()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"  opened at {position} in {1e3 * (opened - start):.1f} ms, first load {1e3 * (cold - opened):.2f} "
        f"ms, others {1e6 * (warm - cold) / 1_000:.0f} us, 100 summaries {1e3 * (listed - warm):.2f} ms, "
        f"peak memory of this process {memory:.0f} MiB"
    )
    store.close()


def _numbers(panels: int, step: int) -> Iterator[range]:
    for first in range(1, panels + 1, step):
        yield range(first, min(first + step, panels + 1))


def _made(numbers: range, state_bytes: int) -> list[Record]:
    records: list[Record] = [Source(_DIGEST, "javascript", "", _SOURCE)]
    value = b'"' + b"x" * (state_bytes - 2) + b'"'
    records += [
        Created(number, f"panel-{number}", "e1", _START_MS, _DEFINITION, {"count": value}, 0, (_DIGEST,))
        for number in numbers
    ]
    return records


def _ran(seqs: dict[int, int], panel: int, keyed: bool) -> Ran:
    seq = seqs[panel] = seqs[panel] + 1
    outcome = Completed(
        Usage(1_234, 50, 65_536, 65_536, 2),
        b"%d" % seq,
        b'[{"op":"set","key":"count","value":%d}]' % seq,
        (b'{"name":"counted","payload":%d,"timestamp":1760000000000}' % seq,),
    )
    key = Key("somebody", f"key-{seq}", b"f" * 16) if keyed else None
    return Ran(
        panel,
        seq,
        _START_MS + seq,
        "increment",
        _DIGEST,
        b'{"by":1}',
        b"{}",
        1.76e12,
        seq,
        outcome,
        100,
        300,
        key,
    )


if __name__ == "__main__":
    main()
