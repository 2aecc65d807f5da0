"""What becomes of the record under bad input: of clients, of the disk, of the files, of the clock, of the
handlers.

Every case has an answer that is tested here with real processes; what was acknowledged is there afterwards in
all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import apsw
import psutil
import pytest
import websockets

from panels_gateway.journal.local import open_local
from panels_gateway.journal.records import Batch, Defined, Source
from panels_shared.handlers import handler_digest
from tests.support.clients import Client, Message, refused_status
from tests.support.crash import findings
from tests.support.system import Process, System, eventually

#: Appends its argument's number to the state, one key each, and returns its place.
APPEND = {
    "name": "append",
    "handler": '$state.n = ($state.n ?? 0) + 1; $state["k" + $args.n] = $state.n; return $state.n;',
}
PANEL = "record"


@dataclass
class Caller:
    """Triggers with a key each, and what was acknowledged: the place by number."""

    system: System
    acknowledged: dict[int, int] = field(default_factory=dict)
    sent: int = 0

    def call(self, client: Client, *, padding: int = 0) -> Message:
        """One trigger, and its answer. Raises ``websockets.ConnectionClosed``."""
        self.sent += 1
        client.send(trigger(self.sent, padding=padding))
        final = client.await_answer(f"{self.sent}").final
        if final["type"] == "RESULT":
            self.acknowledged[self.sent] = final["result"]["returnValue"]
        return final

    def call_until_cut(self, *, padding: int = 0, most: int = 20_000) -> None:
        """One trigger after the other until the gateway is gone; fails the test when it stays."""
        with contextlib.suppress(websockets.ConnectionClosed, OSError), self.system.connect(PANEL) as client:
            for _ in range(most):
                self.call(client, padding=padding)
        assert self.sent < most, "the gateway never ended"

    def check(self) -> None:
        """Everything acknowledged is there, once; and a key that was not answered gets its answer now."""
        state = self.system.state(PANEL)
        for number, place in self.acknowledged.items():
            assert state.get(f"k{number}") == place, f"{number} was acknowledged at {place}"
        with self.system.connect(PANEL) as client:
            client.send(trigger(self.sent))
            assert client.await_answer(f"{self.sent}").final["type"] in ("RESULT", "ERROR")
        state = self.system.state(PANEL)
        places = sorted(value for key, value in state.items() if key != "n")
        assert places == list(range(1, state["n"] + 1))
        assert self.system.seq(PANEL) == state["n"]


def trigger(number: int, *, key: str | None = None, padding: int = 0) -> Message:
    """A TRIGGER of ``append``."""
    return {
        "type": "TRIGGER",
        "tool": "append",
        "args": {"n": number, "padding": "x" * padding},
        "requestId": f"{number}",
        "idempotencyKey": key or f"key-{number}",
    }


@contextlib.contextmanager
def system_with_panel(cache: Path, *gateway: str) -> Iterator[System]:
    """A system with one sandbox, and the panel; its gateway is the test's to end."""
    with System(gateway=gateway, auth=False, cache_dir=cache) as system:
        system.start(processes=1)
        system.make_panel(APPEND, panel_id=PANEL)
        yield system


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system that no test may harm."""
    with System(gateway=("--history-commits", "100"), auth=False) as system:
        system.start(processes=1)
        system.make_panel(APPEND, panel_id=PANEL)
        yield system


def connect(system: System, panel: str, query: str) -> Client:
    return Client.connect(f"{system.socket_url(panel)}?{query}")


# -- what clients ask --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", ["epoch={epoch}&since=999999", "epoch=another&since=0", "since=0", "epoch={epoch}&since=none"]
)
def test_resume_from_where_there_is_nothing_gets_the_whole_state(shared: System, query: str) -> None:
    panel = shared.make_panel(APPEND)
    with shared.connect(panel) as client:
        client.call("append", {"n": 1})
        epoch = client.hello["epoch"]
    with connect(shared, panel, query.format(epoch=epoch)) as client:
        assert client.hello["recovered"] is False
        assert client.hello["state"] == {"n": 1, "k1": 1}
        assert client.hello["seq"] == 1


@pytest.mark.parametrize(
    "query", ["since=-1", "since=x", "since=", "since=1.5", "since=" + "9" * 17, "since=1&since=1"]
)
def test_resume_from_what_is_no_version_is_refused(shared: System, query: str) -> None:
    status, error = refused_status(lambda: connect(shared, PANEL, f"epoch=e&{query}"))
    assert (status, error["code"], error["details"]["path"]) == (400, "INVALID_REQUEST", "since")


@pytest.mark.parametrize("key", ["", "x" * 1_000, "a\nb", 7])
def test_key_that_is_none_is_refused_and_nothing_runs(shared: System, key: object) -> None:
    panel = shared.make_panel(APPEND)
    with shared.connect(panel) as client:
        client.send({**trigger(1), "idempotencyKey": key})
        error = client.receive()
        assert (error["type"], error["code"], error["requestId"]) == ("ERROR", "PARSE_ERROR", "1")
        assert "idempotencyKey" in error["message"]
        client.barrier()
    assert shared.seq(panel) == 0
    if key == "x" * 1_000:
        headers = {"Idempotency-Key": str(key)}
        refused = shared.http.post(
            f"/panels/{panel}/trigger/append", json={"args": {"n": 1}}, headers=headers
        )
        assert refused.status_code == 400, refused.text


def test_key_used_again_for_something_else_conflicts_and_nothing_runs(shared: System) -> None:
    panel = shared.make_panel(APPEND, {**APPEND, "name": "other"})
    with shared.connect(panel) as client:
        client.send(trigger(1))
        first = client.await_answer("1").final
        client.send(trigger(2, key="key-1"))
        assert client.await_answer("2").code == "CONFLICT"
        client.send({**trigger(1), "tool": "other"})
        assert client.await_answer("1").code == "CONFLICT"
        client.send(trigger(1))
        assert client.await_answer("1").final == first, "the same for the same"
    refused = shared.http.post(
        f"/panels/{panel}/trigger/append", json={"args": {"n": 3}}, headers={"Idempotency-Key": "key-1"}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "CONFLICT")
    assert shared.state(panel) == {"n": 1, "k1": 1}


def test_history_that_is_trimmed_while_it_is_read_has_no_holes(shared: System) -> None:
    panel = shared.make_panel(APPEND)
    done = threading.Event()

    def press() -> None:
        with shared.connect(panel) as client:
            for number in range(3_000):
                client.send(
                    {"type": "TRIGGER", "tool": "append", "args": {"n": number}, "requestId": f"{number}"}
                )
                if number >= 16:
                    client.receive_until(lambda message: message["type"] == "RESULT")
        done.set()

    pressing = threading.Thread(target=press)
    pressing.start()
    pages = gone = 0
    since = 0
    try:
        while not done.is_set():
            response = shared.http.get(f"/panels/{panel}/history", params={"since": since, "limit": 50})
            if response.status_code == 410:
                assert response.json()["error"]["code"] == "HISTORY_GONE"
                gone += 1
                since = shared.seq(panel)
                continue
            assert response.status_code == 200, response.text
            seqs = [commit["seq"] for commit in response.json()["commits"]]
            assert seqs == list(range(since + 1, since + 1 + len(seqs)))
            pages += bool(seqs)
            # far behind, as a slow reader is
            since = max(0, since - 150) if pages % 3 == 2 else since + len(seqs)
    finally:
        pressing.join()
    assert pages
    eventually(
        lambda: shared.http.get(f"/panels/{panel}/history", params={"since": 0}).status_code == 410,
        what="history that no longer reaches back to the beginning",
    )
    with connect(shared, panel, "epoch=x&since=1") as client:
        assert client.hello["recovered"] is False
    epoch = shared.http.get(f"/panels/{panel}/state").json()["epoch"]
    with connect(shared, panel, f"epoch={epoch}&since=1") as client:
        assert client.hello["recovered"] is False
        assert client.hello["seq"] == 3_000
    with connect(shared, panel, f"epoch={epoch}&since=2990") as client:
        assert client.hello["recovered"] is True
        assert [m["seq"] for m in client.barrier() if m["type"] == "PATCH"] == list(range(2_991, 3_001))


# -- a disk that fails -------------------------------------------------------------------------------------


@contextlib.contextmanager
def injecting(pid: int, *arguments: str) -> Iterator[None]:
    """Has system calls of a process fail, from now on."""
    with subprocess.Popen(
        ["strace", "-f", "-p", str(pid), "-o", "/dev/null", *arguments], stderr=subprocess.PIPE, text=True
    ) as strace:
        assert strace.stderr is not None
        said = strace.stderr.readline()
        if "attached" not in said:
            strace.kill()
            pytest.skip(f"this machine does not let strace attach to a process: {said.strip()}")
        try:
            yield
        finally:
            strace.terminate()
            strace.stderr.read()
            strace.wait()


def folding_process(system: System) -> psutil.Process:
    """The folding process of the gateway that runs."""

    def look() -> psutil.Process | None:
        for child in system.the_gateway().children():
            with contextlib.suppress(psutil.Error):
                if any("journal.folder" in word for word in child.cmdline()):
                    return child
        return None

    found = eventually(look, what="a folding process")
    assert found is not None
    return found


def sentence(process: Process, start: str) -> str:
    """The one line of a log that says so; fails the test when there are others or none."""
    lines = [line for line in process.text.splitlines() if start in line]
    assert len(lines) == 1, process.text
    return lines[0]


def log_paths(system: System) -> list[str]:
    """What strace needs to look at the log's files only: all that there can be in the next seconds."""
    log = system.folder / "data" / "log"
    return [word for first in range(1, 500) for word in ("-P", f"{log}/{first:016d}.seg")]


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize(("mode", "call"), [("process", "write"), ("power", "write"), ("power", "fdatasync")])
def test_log_that_cannot_be_written_ends_the_gateway(
    cache_dir: Path, mode: str, call: str, error: str
) -> None:
    with system_with_panel(cache_dir, "--durability", mode) as system:
        caller = Caller(system)
        with system.connect(PANEL) as client:
            for _ in range(5):
                caller.call(client)
        gateway = system.the_gateway()
        inject = (f"--trace={call}", f"--inject={call}:error={error}:when=4+")
        with injecting(gateway.pid, *inject, *(log_paths(system) if call == "write" else ())):
            caller.call_until_cut()
            assert gateway.wait() == 74
        said = sentence(gateway, "the journal failed, and the gateway ends")
        assert os.strerror(getattr(__import__("errno"), error)) in said
        assert len(caller.acknowledged) >= 5
        system.start_gateway()
        system.await_ready()
        caller.check()


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("calls", ["pwrite64", "fsync,fdatasync"])
def test_store_that_cannot_be_written_ends_the_gateway(cache_dir: Path, calls: str, error: str) -> None:
    with system_with_panel(cache_dir) as system:
        caller = Caller(system)
        gateway = system.the_gateway()
        with injecting(folding_process(system).pid, f"--trace={calls}", f"--inject={calls}:error={error}"):
            caller.call_until_cut()
            assert gateway.wait() == 74
        said = sentence(gateway, "the journal failed, and the gateway ends")
        assert "the folding process cannot go on: it ended with exit code 74" in said
        assert sentence(gateway, "panels folder:")
        system.start_gateway()
        system.await_ready()
        caller.check()


@pytest.fixture
def small_disk(cache_dir: Path) -> Iterator[System]:
    """A system whose data directory is a disk of its own, of 3 MiB."""
    with System(auth=False, cache_dir=cache_dir) as system:
        data = system.folder / "data"
        data.mkdir(mode=0o700)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "none", str(data)],
            capture_output=True,
            text=True,
        )
        if mounted.returncode:
            pytest.skip(f"a disk can only be mounted by root: {mounted.stderr.strip()}")
        try:
            system.start(processes=1)
            system.make_panel(APPEND, panel_id=PANEL)
            yield system
        finally:
            for process in system.processes():
                process.child.kill()
                process.child.wait()
            subprocess.run(["umount", "-l", str(data)], check=True)


def remount(system: System, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(system.folder / "data")], check=True)


def test_full_disk_ends_the_gateway_and_room_on_it_brings_all_back(small_disk: System) -> None:
    system = small_disk
    caller = Caller(system)
    caller.call_until_cut(padding=4_000)
    gateway = system.the_gateway()
    assert gateway.wait() == 74
    assert sentence(gateway, "the journal failed, and the gateway ends")
    assert caller.acknowledged
    # full as it is, it does not start, or it does and serves; it never loses anything
    again = system.start_gateway(wait=False)
    eventually(
        lambda: not again.running or "listening on" in again.text, within_s=40, what="an end or a start"
    )
    if again.running:
        again.kill()
    else:
        assert again.child.returncode in (65, 74), again.tail()
        assert "Traceback" not in again.text
    remount(system, "size=64m")
    system.start_gateway()
    system.await_ready()
    caller.check()


def test_directory_that_is_read_only_is_refused_with_a_sentence(small_disk: System) -> None:
    system = small_disk
    caller = Caller(system)
    with system.connect(PANEL) as client:
        caller.call(client)
    assert system.the_gateway().stop() == 0
    remount(system, "ro")
    refused = system.start_gateway(wait=False)
    assert refused.wait() == 78
    assert "Read-only file system" in refused.text
    assert len(refused.text.splitlines()) == 1
    remount(system, "rw")
    system.start_gateway()
    system.await_ready()
    caller.check()


def test_directory_that_is_gone_ends_the_gateway(cache_dir: Path) -> None:
    with system_with_panel(cache_dir) as system:
        caller = Caller(system)
        with system.connect(PANEL) as client:
            caller.call(client)
        shutil.rmtree(system.folder / "data")
        caller.call_until_cut()
        gateway = system.the_gateway()
        assert gateway.wait() == 74
        assert sentence(gateway, "the journal failed, and the gateway ends")


def test_second_gateway_is_refused_with_a_sentence_and_the_first_goes_on(cache_dir: Path) -> None:
    with system_with_panel(cache_dir) as system:
        first = system.the_gateway()
        second = Process.start(
            "second",
            system.folder,
            ["panels_gateway", "--port", "0", "--no-auth", "--data-dir", str(system.folder / "data")],
        )
        assert second.wait() == 69
        assert "is in use by another gateway" in second.text
        assert len(second.text.splitlines()) == 1
        caller = Caller(system)
        with system.connect(PANEL) as client:
            caller.call(client)
        assert first.running
        caller.check()


# -- files that are not what they were ---------------------------------------------------------------------


def last_segment(data: Path) -> Path:
    return max((data / "log").iterdir())


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def newer_meta(data: Path) -> None:
    line = (data / "meta").read_bytes().split(b"\n")[0].replace(b'"version":1', b'"version":99')
    (data / "meta").write_bytes(b"%s\n%08x\n" % (line, crc32(line)))


def newer_segment(data: Path) -> None:
    path = last_segment(data)
    content = bytearray(path.read_bytes())
    content[8:12] = (99).to_bytes(4, "little")
    content[52:56] = crc32(content[:52]).to_bytes(4, "little")
    path.write_bytes(content)


def newer_store(data: Path) -> None:
    connection = apsw.Connection(str(data / "panels.db"))
    connection.execute("UPDATE meta SET format = 99")
    connection.close()


def empty_store(data: Path) -> None:
    for path in data.glob("panels.db*"):
        os.truncate(path, 0)


def remove_store(data: Path) -> None:
    for path in data.glob("panels.db*"):
        path.unlink()


def foreign_store(data: Path) -> None:
    remove_store(data)
    connection = apsw.Connection(str(data / "panels.db"))
    connection.execute("CREATE TABLE somebody (elses INTEGER)")
    connection.close()


#: What is done to a directory after SIGKILL, with records in the log.
DAMAGES: dict[str, Callable[[Path], object]] = {
    "segment flipped": lambda data: flip(last_segment(data), 100),
    "segment header flipped": lambda data: flip(last_segment(data), 20),
    "segment newer": newer_segment,
    "segment foreign": lambda data: last_segment(data).write_bytes(b"#!/bin/sh\n" * 100),
    "stranger in the log": lambda data: (data / "log" / "notes.txt").write_text("mine"),
    "meta flipped": lambda data: flip(data / "meta", 10),
    "meta emptied": lambda data: (data / "meta").write_bytes(b""),
    "meta newer": newer_meta,
    "meta gone": lambda data: (data / "meta").unlink(),
    "store flipped": lambda data: flip(data / "panels.db", 5),
    "store cut": lambda data: os.truncate(data / "panels.db", 2_000),
    "store emptied": empty_store,
    "store newer": newer_store,
    "store foreign": foreign_store,
    "store gone": remove_store,
}


@pytest.fixture(scope="module")
def crashed() -> Iterator[tuple[System, Path, Caller]]:
    """A system whose gateway was killed, and a copy of its directory with records in the log."""
    with System(auth=False) as system:
        system.start(processes=1)
        system.make_panel(APPEND, panel_id=PANEL)
        caller = Caller(system)
        with system.connect(PANEL) as client:
            for _ in range(20):
                caller.call(client)
            folding_process(system).suspend()
            for _ in range(20):
                caller.call(client)
        system.remember_children()
        system.the_gateway().kill()
        # what is in the WAL goes into the file itself: else damage to that could mean nothing
        connection = apsw.Connection(str(system.folder / "data" / "panels.db"))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        copy = system.folder / "copy"
        shutil.copytree(system.folder / "data", copy)
        yield system, copy, caller


def put_back(crashed: tuple[System, Path, Caller]) -> Path:
    system, copy, _ = crashed
    if system.the_gateway().running:
        system.the_gateway().kill()
    data = system.folder / "data"
    shutil.rmtree(data)
    shutil.copytree(copy, data)
    return data


def contents(data: Path) -> dict[str, str]:
    """What is in every file but for the locks and SQLite's memory."""
    return {
        str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in data.rglob("*")
        if path.is_file()
        and "lock" not in path.name
        and not path.name.endswith("-shm")
        # an empty WAL is nothing
        and (path.stat().st_size or not path.name.endswith("-wal"))
    }


@pytest.mark.parametrize("damage", DAMAGES)
def test_file_that_is_not_what_it_was_is_refused_and_left_alone(
    crashed: tuple[System, Path, Caller], damage: str
) -> None:
    system = crashed[0]
    data = put_back(crashed)
    DAMAGES[damage](data)
    before = contents(data)
    refused = system.start_gateway(wait=False)
    assert refused.wait(40) == 65, refused.tail()
    lines = [line for line in refused.text.splitlines() if line.startswith("panels-gateway:")]
    assert len(lines) == 1, refused.text
    assert str(data) in lines[0]
    assert "Traceback" not in refused.text
    assert contents(data) == before


def test_bit_flipped_in_a_panel_is_found_and_only_that_panel_refused(
    crashed: tuple[System, Path, Caller],
) -> None:
    system, _, caller = crashed
    data = put_back(crashed)
    system.start_gateway()
    system.await_ready()
    other = system.make_panel(state={"x": 1})
    caller.check()
    assert system.the_gateway().stop() == 0
    database = data / "panels.db"
    content = database.read_bytes()
    flip(database, content.index(b"$state.n = ("))
    found = findings(data)
    assert any("expected a handler of that digest, got another" in finding for finding in found), found
    gateway = system.start_gateway()
    system.await_ready()
    refused = system.http.get(f"/panels/{PANEL}/state")
    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "INTERNAL"), refused.text
    assert str(database) in gateway.text, gateway.tail()
    status, error = refused_status(lambda: system.connect(PANEL))
    assert (status, error["code"]) == (500, "INTERNAL")
    assert "Traceback" not in gateway.text
    assert system.state(other) == {"x": 1}
    assert gateway.stop() == 0


def test_segment_that_ends_within_a_record_is_cut_there_and_the_log_says_so(
    crashed: tuple[System, Path, Caller],
) -> None:
    system, _, caller = crashed
    data = put_back(crashed)
    with last_segment(data).open("ab") as segment:
        segment.write(b"\x10\0\0\0abc")
    gateway = system.start_gateway()
    system.await_ready()
    assert "cut there, nothing that was acknowledged is lost" in gateway.text
    caller.check()
    assert gateway.stop() == 0
    assert findings(data) == []


# -- a clock, a handler ------------------------------------------------------------------------------------

#: Makes the clock of a process what a file says: read anew at each call, so that it can jump.
_CLOCK = """\
import time
from pathlib import Path
_time, _file = time.time, Path(__file__).with_name("offset")
def _offset():
    return float(_file.read_text() or 0)
time.time = lambda: _time() + _offset()
time.time_ns = lambda: int(time.time() * 1e9)
"""


def test_clock_that_jumps_back_loses_nothing(cache_dir: Path) -> None:
    with System(auth=False, cache_dir=cache_dir) as system:
        clock = system.folder / "clock"
        clock.mkdir()
        (clock / "sitecustomize.py").write_text(_CLOCK)
        offset = clock / "offset"
        offset.write_text("0")
        environment = {"PYTHONPATH": str(clock)}
        system.start_gateway(environment=environment)
        system.start_pool(processes=1)
        system.await_ready()
        system.make_panel(APPEND, panel_id=PANEL)
        caller = Caller(system)
        with system.connect(PANEL) as client:
            for _ in range(10):
                caller.call(client)
            offset.write_text("-7200")
            for _ in range(10):
                caller.call(client)
            for number, place in caller.acknowledged.items():
                client.send(trigger(number))
                assert client.await_answer(f"{number}").value == place
        history = system.http.get(f"/panels/{PANEL}/history").json()["commits"]
        assert [commit["seq"] for commit in history] == list(range(1, 21))
        assert history[0]["timestamp"] > history[-1]["timestamp"], "the clock did jump"
        system.the_gateway().kill()
        offset.write_text("-90000")
        gateway = system.start_gateway(environment=environment)
        system.await_ready()
        caller.check()
        assert gateway.stop() == 0
        assert findings(system.folder / "data") == []


def test_panel_whose_handler_no_longer_passes_is_served_and_says_why(cache_dir: Path) -> None:
    with system_with_panel(cache_dir) as system:
        caller = Caller(system)
        with system.connect(PANEL) as client:
            caller.call(client)
        assert system.the_gateway().stop() == 0
        asyncio.run(store_broken_handler(system.folder / "data"))
        system.start_gateway()
        system.await_ready()
        assert system.state(PANEL) == {"n": 1, "k1": 1}
        with system.connect(PANEL) as client:
            answer = client.trigger("append", {"n": 2})
            assert answer.final["type"] == "ERROR"
            assert answer.final["code"] in ("INVALID_HANDLER", "EXECUTION_ERROR")
            assert "line" in str(answer.final) or "syntax" in str(answer.final).lower(), answer.final
            client.send(trigger(1))
            assert client.await_answer("1").value == 1, "what was answered stays so"
        assert system.seq(PANEL) == 1
        assert system.http.get(f"/panels/{PANEL}").status_code == 200


async def store_broken_handler(data: Path) -> None:
    """Puts a source into the record that no worker accepts, as an older version may have left it."""
    journal = await open_local(data, durability="process")
    try:
        stored = await journal.load(PANEL)
        assert stored is not None
        (old,) = stored.sources.values()
        source = b"return ][;"
        digest = handler_digest(old.language, old.entry, source)  # type: ignore[arg-type]
        definition = stored.definition.replace(old.digest.hex().encode(), digest.hex().encode())
        assert definition != stored.definition, stored.definition
        broken = Source(digest, old.language, old.entry, source)
        defined = Defined(stored.panel, stored.created_ms, definition, (digest,))
        journal.append(Batch(journal.position + 1, journal.fence, [broken, defined]))
    finally:
        await journal.close()
