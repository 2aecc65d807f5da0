"""What a loss of power can leave of a directory: recorded from a real gateway, rebuilt, and opened.

strace records every system call by which a gateway and its folding process change the data directory, and
every byte that they send to clients. From that, ``Recording`` knows what was done to which file, from when to
when, and which answers had begun to leave. A state that a loss of power may leave is then any in which

- what was written to a file before an fsync or fdatasync of it began, which had returned when the power went,
  is there;
- every other write, and every other change of a length, is there or not, each by itself, or in part, by
  sectors of 512 bytes;
- of the names in a directory that were made, changed and removed since it was last synced, some are, from the
  oldest on: the file systems that Linux offers keep the order of those (ext4, xfs, btrfs), and a directory's
  own making.

Not modelled: disks that forget what they have acknowledged, and sectors that are torn in themselves.
Memory-mapped writes are not seen; only SQLite's ``-shm`` is written so, and it means nothing after a restart
of the machine.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import psutil

from panels_gateway.journal.directory import decode_meta, encode_meta
from panels_gateway.journal.journal import JournalError, StoredPanel
from panels_gateway.journal.local import LocalJournal, open_local
from tests.support.resuming import Call, ResumingClient
from tests.support.system import System, eventually

SECTOR_BYTES: Final = 512
#: Calls that change files, that put them on the disk, and by which answers leave.
CALLS: Final = (
    "openat,rename,renameat,renameat2,unlink,unlinkat,write,writev,pwrite64,pwritev,ftruncate,"
    "fsync,fdatasync,sendto,sendmsg"
)
_ACKNOWLEDGED: Final = re.compile(rb'\{"type":"RESULT","requestId":"([^"]+)"')
_STRING: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_ON_DESCRIPTOR: Final = re.compile(r"(\w+)\((\d+)<([^>]*)>(.*)\)\s+= (-?\d+)")
_ON_SOCKET: Final = re.compile(r"(?:write|writev|sendto|sendmsg)\(\d+<([^>]*)>")
_ON_PATH: Final = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)")


def strace_command(trace: Path) -> list[str]:
    """The command that starts another one and records its calls in ``trace``."""
    return [
        *("strace", "--follow-forks", "--decode-fds=path", "--strings-in-hex=all", "--signal=none"),
        *("--string-limit=67108864", "--quiet=all", f"--trace={CALLS}", f"--output={trace}"),
    ]


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one file's bytes. ``begin`` and ``end`` are places in the recording; ``data`` None cuts the
    file to ``offset``.
    """

    begin: int
    end: int
    offset: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Naming:
    """A change of a directory: ``name`` is ``file`` from now on, or nothing where ``file`` is None. ``was``
    is a name that goes.
    """

    begin: int
    end: int
    name: str
    file: int | None
    was: str | None = None


@dataclass
class File:
    """A file, whatever it is called."""

    size: int = 0
    changes: list[Change] = field(default_factory=list)
    syncs: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Folder:
    """A directory: what happened to its names, and when it was synced."""

    namings: list[Naming] = field(default_factory=list)
    syncs: list[tuple[int, int]] = field(default_factory=list)


class Recording:
    """What was done to everything below ``root``, which was empty before, and what was acknowledged
    meanwhile.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.files: list[File] = []
        self.folders: dict[str, Folder] = {}
        #: (place, requestId) of every RESULT that began to leave
        self.acknowledged: list[tuple[int, str]] = []
        self.places = 0
        self.counts: Counter[str] = Counter()
        self._names: dict[str, int] = {}
        self._written: dict[str, int] = {}

    def read(self, lines: Iterable[str]) -> None:
        """Adds what strace has written. Called once for each run of the program, in order."""
        pending: dict[str, tuple[int, str]] = {}
        for line in lines:
            self.places += 1
            thread, _, rest = line.strip().partition(" ")
            rest = rest.strip()
            if rest.endswith("<unfinished ...>"):
                text = rest.removesuffix("<unfinished ...>")
                pending[thread] = self.places, text
                # what a call has begun to send may have arrived, whether or not it ever returned
                self._look_for_answers(text, self.places)
                continue
            resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", rest)
            if resumed:
                begin, head = pending.pop(thread, (self.places, ""))
                self._call(head + resumed[1], begin, self.places)
            else:
                self._look_for_answers(rest, self.places)
                self._call(rest, self.places, self.places)

    def _look_for_answers(self, text: str, place: int) -> None:
        found = _ON_SOCKET.match(text)
        if found is None or not _path(found[1]).startswith(("socket:", "TCP:")):
            return
        for part in _STRING.findall(text):
            for match in _ACKNOWLEDGED.finditer(_bytes(part)):
                self.acknowledged.append((place, match[1].decode()))

    def _call(self, text: str, begin: int, end: int) -> None:
        found = _ON_DESCRIPTOR.match(text)
        if found is not None and found[1] != "openat":
            path = _path(found[3])
            if path.startswith(self.root):
                self._on_file(found[1], path, found[4], int(found[5]), begin, end)
            return
        found = _ON_PATH.match(text)
        if found is not None and int(found[3].split("<")[0]) >= 0:
            paths = [_bytes(part).decode() for part in _STRING.findall(found[2])]
            if paths and paths[0].startswith(self.root):
                self._on_name(found[1], paths, found[2], begin, end)

    def _on_name(self, call: str, paths: Sequence[str], arguments: str, begin: int, end: int) -> None:
        path = paths[0]
        if call == "openat":
            if "O_DIRECTORY" in arguments:
                return
            if path not in self._names:
                if "O_CREAT" not in arguments:
                    return
                self.files.append(File())
                self._names[path] = len(self.files) - 1
                self._folder(path).namings.append(Naming(begin, end, path, self._names[path]))
                self.counts["files made"] += 1
            elif "O_TRUNC" in arguments:
                self._change(path, begin, end, 0, None)
            self._written[path] = 0
        elif call.startswith("rename"):
            target = paths[1]
            self._names[target] = self._names.pop(path)
            self._folder(target).namings.append(Naming(begin, end, target, self._names[target], was=path))
            self.counts["renames"] += 1
        elif call.startswith("unlink") and path in self._names:
            del self._names[path]
            self._folder(path).namings.append(Naming(begin, end, path, None))
            self.counts["files removed"] += 1

    def _on_file(self, call: str, path: str, arguments: str, result: int, begin: int, end: int) -> None:
        if result < 0:
            return
        if call in ("fsync", "fdatasync"):
            self.counts["syncs"] += 1
            if path in self._names:
                self.files[self._names[path]].syncs.append((begin, end))
            else:
                self.folders.setdefault(path, Folder()).syncs.append((begin, end))
            return
        if path not in self._names:
            return
        if call == "ftruncate":
            self._change(path, begin, end, int(arguments.rsplit(",", 1)[1]), None)
            return
        data = b"".join(_bytes(part) for part in _STRING.findall(arguments))[:result]
        assert len(data) == result, f"strace cut {call} of {path} short"
        if call in ("pwrite64", "pwritev"):
            offset = int(arguments.rsplit(",", 1)[1])
        else:
            # whoever writes without an offset appends, or writes a new file from its beginning to its end
            offset = self.files[self._names[path]].size if path.endswith(".seg") else self._written[path]
            self._written[path] += result
        self._change(path, begin, end, offset, data)
        self.counts["writes"] += 1

    def _change(self, path: str, begin: int, end: int, offset: int, data: bytes | None) -> None:
        file = self.files[self._names[path]]
        file.changes.append(Change(begin, end, offset, data))
        file.size = offset if data is None else max(file.size, offset + len(data))

    def _folder(self, path: str) -> Folder:
        return self.folders.setdefault(os.path.dirname(path), Folder())

    # -- states ---------------------------------------------------------------------------------------------

    def acknowledged_before(self, cut: int) -> list[str]:
        """The requestIds of the answers that had begun to leave when the power went."""
        return [request_id for place, request_id in self.acknowledged if place < cut]

    def cut(self, choose: random.Random) -> int:
        """A place for the power to go at: any at all or, as often, one just behind the beginning of a
        change.
        """
        if choose.random() < 0.5:
            return choose.randrange(1, self.places + 2)
        file = choose.choice([file for file in self.files if file.changes])
        return choose.choice(file.changes).begin + choose.randint(1, 3)

    def build(self, target: Path, cut: int, choose: random.Random) -> Counter[str]:
        """Makes ``target`` a directory as it may be if the power goes at place ``cut``; how many changes were
        treated how.
        """
        treated: Counter[str] = Counter()
        keep = choose.choice(("nothing", "everything", "some", "some", "some"))
        for directory, folder in self.folders.items():
            where = target / os.path.relpath(directory, self.root)
            where.mkdir(parents=True, exist_ok=True)
            for name, file in self._names_in(folder, cut, keep, choose).items():
                data = self._bytes_of(self.files[file], cut, keep, choose, treated)
                (where / os.path.basename(name)).write_bytes(data)
        return treated

    def _names_in(self, folder: Folder, cut: int, keep: str, choose: random.Random) -> dict[str, int]:
        done = [naming for naming in folder.namings if naming.begin < cut]
        synced = sum(_is_synced(naming.end, folder.syncs, cut) for naming in done)
        count = {"nothing": synced, "everything": len(done)}.get(keep, choose.randint(synced, len(done)))
        names: dict[str, int] = {}
        for naming in done[:count]:
            if naming.was is not None:
                names.pop(naming.was, None)
            if naming.file is None:
                names.pop(naming.name, None)
            else:
                names[naming.name] = naming.file
        return names

    def _bytes_of(
        self, file: File, cut: int, keep: str, choose: random.Random, treated: Counter[str]
    ) -> bytes:
        data = bytearray()
        for change in file.changes:
            if change.begin >= cut:
                continue
            how = "kept"
            if not _is_synced(change.end, file.syncs, cut):
                how = {"nothing": "dropped", "everything": "kept"}.get(
                    keep, choose.choice(("kept", "dropped", "torn"))
                )
                treated[f"unsynced {how}"] += 1
            else:
                treated["synced"] += 1
            if how == "dropped":
                continue
            if change.data is None:
                _resize(data, change.offset)
            elif how == "kept":
                _place(data, change.offset, change.data)
            else:
                for at, sector in _sectors(change.offset, change.data):
                    if choose.random() < 0.5:
                        _place(data, at, sector)
        return bytes(data)


def _is_synced(end: int, syncs: list[tuple[int, int]], cut: int) -> bool:
    return any(begin > end and done < cut for begin, done in syncs)


def _sectors(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """The parts of a write that a disk writes whole, by the borders of its sectors in the file."""
    at = 0
    while at < len(data):
        size = min(SECTOR_BYTES - (offset + at) % SECTOR_BYTES, len(data) - at)
        yield offset + at, data[at : at + size]
        at += size


def _resize(data: bytearray, size: int) -> None:
    if size < len(data):
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))


def _place(data: bytearray, offset: int, part: bytes) -> None:
    if len(data) < offset + len(part):
        _resize(data, offset + len(part))
    data[offset : offset + len(part)] = part


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _path(text: str) -> str:
    return _bytes(text).decode(errors="replace") if text.startswith("\\x") else text


# -- a real gateway ----------------------------------------------------------------------------------------


@dataclass
class Report:
    """What exploring has found."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Recorded:
    """A recording, and the keys of all calls that were made, by panel."""

    recording: Recording
    panels: dict[str, list[str]]


PANELS: Final = ("power-1", "power-2", "power-3")
APPEND: Final = """\
$state.n = ($state.n ?? 0) + 1;
$state["k" + $args.n] = $state.n;
return $state.n;
"""


def record(*, seconds: float, seed: int, boots: int = 2) -> Recorded:
    """Runs a gateway in mode ``power`` under load, ``boots`` times with SIGKILL between them, and records
    what it does.
    """
    with System(gateway=("--durability", "power"), auth=False) as system:
        recording = Recording(system.folder / "data")
        calls: dict[str, list[str]] = {panel: [] for panel in PANELS}
        for boot in range(boots):
            trace = system.folder / f"trace-{boot}"
            strace = system.start_gateway(wait=False, under=strace_command(trace))
            if not boot:
                system.start_pool(processes=1)
            system.await_listening()
            system.await_ready()
            if not boot:
                for panel in PANELS:
                    # a slow machine may not have compiled it in time, and is asked again
                    eventually(partial(_made, system, panel), what="a panel")
            asyncio.run(_load(system, calls, seconds / boots, seed, boot))
            (gateway,) = psutil.Process(strace.pid).children()
            gateway.kill()
            strace.wait()
            with trace.open() as lines:
                recording.read(lines)
    return Recorded(recording, calls)


def _made(system: System, panel: str) -> bool:
    response = system.post_panel({"name": "append", "handler": APPEND}, panel_id=panel)
    return response.status_code in (201, 409)


async def _load(system: System, calls: dict[str, list[str]], seconds: float, seed: int, boot: int) -> None:
    choose = random.Random(f"{seed} {boot}")
    ending = False

    def next_call(panel: str) -> Call | None:
        if ending:
            return None
        number = sum(map(len, calls.values()))
        key = f"{panel}-{number}"
        calls[panel].append(key)
        # now and then a record that spans many sectors
        padding = "x" * choose.choice((0, 0, 0, 100, 5_000))
        return Call(key, "append", {"n": number, "padding": padding})

    def make(panel: str, window: int) -> ResumingClient:
        return ResumingClient(lambda: system.socket_url(panel), lambda: next_call(panel), window=window)

    clients = [make(panel, window) for panel in PANELS for window in (1, 4)]
    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(client.run())
        await asyncio.sleep(seconds)
        ending = True
        for client in clients:
            client.leaving = True


def explore(*, states: int, seed: int, seconds: float = 10.0) -> Report:
    """Records a gateway and opens ``states`` of the states that a loss of power could have left."""
    if shutil.which("strace") is None:
        sys.exit("expected strace on PATH, found none; install it, with apt-get install strace for instance")
    recorded = record(seconds=seconds, seed=seed)
    recording = recorded.recording
    assert recording.acknowledged, "expected answers in what was recorded, got none"
    report = Report()
    report.counts.update(recording.counts)
    report.counts["acknowledged"] = len(recording.acknowledged)
    choose = random.Random(seed)
    for _ in range(states):
        cut = recording.cut(choose)
        target = Path(tempfile.mkdtemp(prefix="ptp-", dir="/tmp"))
        state_seed = f"{seed}-{report.counts['states']}"
        try:
            report.counts.update(recording.build(target, cut, random.Random(state_seed)))
            problems = asyncio.run(
                _check(target, recorded, recording.acknowledged_before(cut), report.counts)
            )
        finally:
            shutil.rmtree(target, ignore_errors=True)
        report.counts["states"] += 1
        for problem in problems:
            report.violations.append(f"place {cut} of {recording.places}, choices {state_seed}: {problem}")
            sys.stderr.write(f"violation: {report.violations[-1][:1_000]}\n")
        if report.counts["states"] % 25 == 0:
            sys.stderr.write(f"{report.counts['states']} states, {len(report.violations)} violations\n")
    return report


async def _check(
    data_dir: Path, recorded: Recorded, acknowledged: list[str], counts: Counter[str]
) -> list[str]:
    """What is wrong with a directory after a loss of power: opened by the code that a gateway opens it
    with.
    """
    from tests.support.crash import findings

    after_restart(data_dir)
    try:
        journal = await open_local(data_dir, durability="power")
    except JournalError as exc:
        return [f"cannot be opened: {exc}"]
    problems: list[str] = []
    try:
        counts["states with a cut"] += any("cut there" in notice for notice in journal.notices)
        if journal.incarnation:
            problems.append(f"expected the epoch that there was, got incarnation {journal.incarnation}")
        for panel in PANELS:
            mine = [key for key in acknowledged if key.startswith(f"{panel}-")]
            counts["acknowledged and looked for"] += len(mine)
            problems += await _panel_problems(journal, panel, mine)
    finally:
        await journal.close()
    return problems + findings(data_dir)


async def _panel_problems(journal: LocalJournal, panel: str, acknowledged: list[str]) -> list[str]:
    stored = await journal.load(panel)
    if stored is None:
        return (
            [f"{panel} is gone, {len(acknowledged)} of its calls had been acknowledged"]
            if acknowledged
            else []
        )
    problems = _state_problems(stored, panel, acknowledged)
    history = await journal.history(stored.panel, since=0, limit_bytes=1 << 30)
    seqs = [commit.seq for commit in history.commits] if history is not None else []
    if seqs != list(range(1, stored.seq + 1)):
        problems.append(f"{panel}: expected history of {stored.seq} versions, got {seqs[:3]} to {seqs[-3:]}")
    return problems


def _state_problems(stored: StoredPanel, panel: str, acknowledged: list[str]) -> list[str]:
    answered = {key.key for key, _ in stored.answers}
    problems = [
        f"{panel}: {key} had been acknowledged and is not there"
        for key in acknowledged
        if key not in answered or "k" + key.rsplit("-", 1)[1] not in stored.state
    ]
    places = sorted(int(value) for key, value in stored.state.items() if key.startswith("k"))
    if places != list(range(1, stored.seq + 1)) or int(stored.state.get("n", b"0")) != stored.seq:
        problems.append(f"{panel}: expected each place up to version {stored.seq} once, got {places[-3:]}")
    return problems


def after_restart(data_dir: Path) -> None:
    """Makes ``data_dir`` what a machine finds that has been started again: another boot, no shared memory of
    SQLite.
    """
    meta_path = data_dir / "meta"
    if meta_path.exists():
        meta = decode_meta(meta_path.read_bytes())
        meta_path.write_bytes(encode_meta(msgspec.structs.replace(meta, boot="another boot")))
    (data_dir / "panels.db-shm").unlink(missing_ok=True)
