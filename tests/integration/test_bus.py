"""The socket between gateway and workers, attacked: bytes that are no ZeroMQ, frames that are no
messages, and a compromised worker. At worst it fails the jobs it was given; nobody else notices,
and the gateway serves on.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgpack
import psutil
import pytest
import zmq

from panels_shared import wire
from panels_shared.messages import (
    Exited,
    Goodbye,
    Heartbeat,
    Hello,
    Job,
    Missing,
    Prepared,
    Refusal,
    Result,
    ToGateway,
)
from panels_shared.outcome import Completed, Failed, LogLine, Reason, Usage
from tests.integration.conftest import MakeSystem
from tests.integration.guests import counter, returns, tool
from tests.support.rogue import Rogue, admitted, bus_key, pool_hello, sandbox_hello, silence, stranger
from tests.support.system import System, eventually, running_system

MIB = 1024 * 1024
USAGE = Usage(fuel=1, execution_us=1)


@pytest.fixture(scope="module")
def bus(cache_dir: Path) -> Iterator[System]:
    """A system of its own for this module, with one honest sandbox process."""
    with running_system(processes=1, cache_dir=cache_dir) as system:
        yield system


Rogued = tuple[System, Rogue]


@pytest.fixture(scope="module")
def rogue_system() -> Iterator[System]:
    """A gateway whose only worker will be a compromised one."""
    with running_system(processes=0) as system:
        yield system


@pytest.fixture
def rogued(rogue_system: System) -> Iterator[Rogued]:
    """The system and its one worker, which says nothing until it is told how to behave."""
    with Rogue(rogue_system.endpoint) as rogue:
        rogue_system.await_ready()
        yield rogue_system, rogue
        rogue.say(Goodbye(False))
    eventually(lambda: rogue_system.health() == 503, what="the gateway to notice that the worker is gone")


def metric(system: System, family: str) -> int:
    """One value of /metrics, as it is now: the text is kept for a while, and the one that is there may be
    older than what the test has just done. Each request is counted, so that the next one differs.
    """
    kept = system.http.get("/metrics").text
    text = eventually(lambda: text if (text := system.http.get("/metrics").text) != kept else "")
    for line in text.splitlines():
        if line.startswith(f"{family} "):
            return int(float(line.rpartition(" ")[2]))
    raise AssertionError(f"no {family}")


def assert_served(system: System) -> None:
    """A new panel on an honest worker counts to three."""
    with system.connect(system.make_panel(counter(), state={"count": 0})) as client:
        assert [client.call("count") for _ in range(3)] == [1, 2, 3]


def rss_mib(system: System) -> float:
    return float(psutil.Process(system.the_gateway().pid).memory_info().rss) / MIB


def connect_bytes(system: System) -> socket.socket:
    """A stream to the bus, without ZeroMQ."""
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(system.endpoint.removeprefix("ipc://"))
    raw.settimeout(10)
    return raw


def send_bytes(raw: socket.socket, data: bytes) -> None:
    """All of ``data``, unless the gateway hangs up first."""
    try:
        raw.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        pass


# -- bytes -------------------------------------------------------------------------------------------

GREETING = b"\xff" + b"\0" * 8 + b"\x7f" + b"\x03\x00" + b"NULL" + b"\0" * 16 + b"\0" * 32


@pytest.mark.parametrize(
    "data",
    [
        os.urandom(4_096),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x01\x00" + b"\x05\x00canary" * 50,  # the framing of ZMTP 1.0, which has no greeting
        GREETING + os.urandom(4_096),
        GREETING + b"\x04\xff" * 1_000,
        GREETING + b"\x06\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xff" * 100_000,
        b"\0" * 100_000,
    ],
    ids=["random", "HTTP", "ZMTP 1.0", "greeting", "commands", "long command", "ones", "zeros"],
)
def test_bytes_that_are_no_zeromq_harm_nobody(bus: System, data: bytes) -> None:
    before = rss_mib(bus)
    for _ in range(20):
        with connect_bytes(bus) as raw:
            send_bytes(raw, data)
    assert_served(bus)
    assert rss_mib(bus) < before + 20


def test_stalled_handshakes_do_not_keep_workers_out(make_system: MakeSystem) -> None:
    system = make_system(processes=0)
    stalled = [connect_bytes(system) for _ in range(300)]
    try:
        for at, raw in enumerate(stalled):
            raw.sendall(GREETING[: 1 + at % (len(GREETING) - 1)])
        system.start_pool(processes=1)
        system.await_ready()
        assert_served(system)
        for raw in stalled[:20]:
            while raw.recv(4_096):  # cut off at the end of the handshake's time
                pass
    finally:
        for raw in stalled:
            raw.close()


# -- frames ------------------------------------------------------------------------------------------

CANARY = "canary-" + "7f3a" * 4


def packed(*values: object) -> bytes:
    return b"".join(msgpack.packb(value) for value in values)


BAD_FRAMES = {
    "empty": b"",
    "text": CANARY.encode(),
    "json": b"[1,[[34,1,[]]]]",
    "nil": packed(None),
    "map": packed({1: []}),
    "no version": packed([[]]),
    "another version": packed([wire.PROTOCOL_VERSION + 1, [[33, b"x", 1]]]),
    "huge version": packed([2**63, [[33, b"x", 1]]]),
    "no messages": packed([1, []]),
    "too many messages": packed([1, [[33, b"", 0]] * (wire.MAX_MESSAGES + 1)]),
    "unknown tag": packed([1, [[99, b"x"]]]),
    "message to a worker": packed([1, [[8, b"x", 500]]]),
    "too few fields": packed([1, [[34]]]),
    "wrong type": packed([1, [[33, CANARY, "much"]]]),
    "float for an integer": packed([1, [[33, b"x", 1.5]]]),
    "negative tag": packed([1, [[-1]]]),
    "cut": packed([1, [[33, b"xxxxxxxx", 1]]])[:-3],
    "trailing": packed([1, [[33, b"x", 1]]], 1),
    "array of 4 Gi": b"\x92\x01\xdd\xff\xff\xff\xff",
    "map of 4 Gi": b"\x92\x01\xdf\xff\xff\xff\xff",
    "bytes of 4 Gi": b"\x92\x01\xc6\xff\xff\xff\xff",
    "extension": b"\x92\x01\x91\xd4\x01\x00",
    "nested": b"\x92\x01" + b"\x91" * 100_000 + b"\xc0",
    "not utf-8": packed([1, [[35, 1, b"tool"]]]) + b"\xff",
    "string of surrogates": b"\x92\x01\x91\x93\x23\x01\xa3\xed\xa0\x80",
    "a million elements": packed([1, [0] * 1_000_000]),
}


@pytest.mark.parametrize("kind", BAD_FRAMES)
def test_frame_that_does_not_validate_is_counted_and_dropped(bus: System, kind: str) -> None:
    before = metric(bus, "panels_bus_bad_frames_total")
    with admitted(bus.endpoint) as dealer:
        dealer.send(BAD_FRAMES[kind])
        eventually(
            lambda: metric(bus, "panels_bus_bad_frames_total") > before, what="the frame to be counted"
        )
    assert CANARY not in bus.the_gateway().text
    assert_served(bus)


@pytest.mark.parametrize("count", [0, 2, 50_000])
def test_message_of_another_number_of_parts_is_dropped(bus: System, count: int) -> None:
    before, rss = metric(bus, "panels_bus_bad_frames_total"), rss_mib(bus)
    with admitted(bus.endpoint) as dealer:
        dealer.send_multipart([b"", *[b"x"] * (count - 1)] if count else [b""])
        eventually(lambda: metric(bus, "panels_bus_bad_frames_total") > before)
    assert_served(bus)
    assert rss_mib(bus) < rss + 100


def test_frame_above_the_limit_costs_its_sender_the_connection(bus: System) -> None:
    rss = rss_mib(bus)
    with stranger(bus.endpoint) as dealer:
        monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        dealer.send(b"\0" * (wire.MAX_FRAME_BYTES + 1))
        assert monitor.poll(10_000), "the connection is cut"
        dealer.disable_monitor()
        monitor.close()
    assert_served(bus)
    assert rss_mib(bus) < rss + 20


def test_messages_of_a_peer_that_never_said_hello_do_nothing(bus: System) -> None:
    outcome = Completed(USAGE, mutations=b'[{"op":"set","key":"count","value":666}]')
    ill: Sequence[ToGateway] = (
        Goodbye(False), Goodbye(True), Heartbeat(os.urandom(16), 1), Exited(os.urandom(16)),
        Missing(1, "tool"),
        Prepared(os.urandom(32), None), Prepared(os.urandom(32), Refusal("syntax", "no")),
        *(Result(number, outcome) for number in range(1, 500)),
    )  # fmt: skip
    with stranger(bus.endpoint) as dealer:
        before = metric(bus, "panels_bus_strangers_dropped_total")
        for message in ill:
            dealer.send(wire.encode([message]))
        dealer.send(wire.encode(ill))
        eventually(lambda: metric(bus, "panels_bus_strangers_dropped_total") > before + len(ill))
        assert not dealer.poll(0)
    assert_served(bus)


# -- a compromised worker among honest ones ----------------------------------------------------------


def test_forged_results_for_the_jobs_of_others_are_dropped(bus: System) -> None:
    """Job numbers are easily guessed; who was asked is what counts."""
    panel = bus.make_panel(counter(), state={"count": 0})
    forged = Completed(
        USAGE, b"666", b'[{"op":"set","key":"count","value":666}]', (b'{"name":"owned","payload":1}',)
    )
    stop = threading.Event()

    def forge() -> None:
        with admitted(bus.endpoint) as dealer:
            while not stop.is_set():
                for begin in range(0, 3_000, 500):
                    dealer.send(wire.encode([Result(begin + number, forged) for number in range(500)]))
                stop.wait(0.1)

    before = metric(bus, "panels_results_stale_total")
    forger = threading.Thread(target=forge)
    forger.start()
    try:
        with bus.connect(panel) as client, bus.connect(panel) as watcher:
            eventually(lambda: metric(bus, "panels_results_stale_total") > before, what="forgeries to arrive")
            assert [client.call("count") for _ in range(100)] == list(range(1, 101))
            events = [m["event"]["name"] for m in watcher.barrier() if m["type"] == "EVENT"]
    finally:
        stop.set()
        forger.join()
    assert events == ["counted"] * 100
    assert bus.state(panel) == {"count": 100}


def test_worker_of_an_unknown_pool_is_given_nothing(bus: System) -> None:
    """A sandbox counts once the pool that it names is there: nothing else could have
    prepared its handlers.
    """
    with admitted(bus.endpoint):
        for _ in range(5):
            assert_served(bus)


def test_pool_cannot_end_another_ones_workers(bus: System) -> None:
    lost = metric(bus, "panels_workers_lost_total")
    honest = [process.pid for process in bus.sandboxes()]
    key, pool = bus_key(bus.endpoint), os.urandom(16)
    with stranger(bus.endpoint, pool) as dealer:
        dealer.send(wire.encode([pool_hello(key, pool)]))
        dealer.send(wire.encode([Exited(os.urandom(16)) for _ in range(1_000)]))
        dealer.send(wire.encode([Goodbye(False)]))
        assert_served(bus)
    assert metric(bus, "panels_workers_lost_total") == lost
    assert [process.pid for process in bus.sandboxes()] == honest


def test_thousands_of_hellos_leave_the_gateway_in_service(bus: System) -> None:
    rss = rss_mib(bus)
    key, worker = bus_key(bus.endpoint), os.urandom(16)
    with stranger(bus.endpoint) as dealer, stranger(bus.endpoint, worker) as admitted:
        for _ in range(200):
            dealer.send(wire.encode([Hello("sandbox", os.urandom(16), 1, {})] * 20))
            dealer.send(wire.encode([Hello("pool", b"", 1, {"x": "y" * 1_000})] * 20))
            admitted.send(wire.encode([sandbox_hello(key, worker, b"p" * 16)] * 20))
        admitted.send(wire.encode([Goodbye(False)]))
        assert_served(bus)
    assert rss_mib(bus) < rss + 30


def test_others_are_served_during_a_flood_of_results(bus: System) -> None:
    """A million forged results of a sandbox are dropped, most of them unread, and the honest panel is served
    all the same.

    What that costs in time is a figure, see benchmarks/bus_flood.py. That answers come in between, and not
    behind the flood, is what test_broker_reads_a_bounded_number_of_frames_in_one_turn shows.
    """
    panel = bus.make_panel(counter(), state={"count": 0})
    frame = wire.encode(
        [Result(10**9 + number, Completed(USAGE)) for number in range(wire.MAX_MESSAGES // 8)]
    )
    frames = 2_000
    before = metric(bus, "panels_bus_frames_received_total")
    with bus.connect(panel) as client, admitted(bus.endpoint) as dealer:
        client.call("count")
        for _ in range(frames):
            dealer.send(frame)
        assert client.call("count") == 2
        assert [client.call("count") for _ in range(20)] == list(range(3, 23))
        received = "panels_bus_frames_received_total"
        eventually(lambda: metric(bus, received) >= before + frames, within_s=30)
    assert metric(bus, "panels_results_stale_total") > 0
    assert metric(bus, "panels_bus_throttled_frames_total") > 0


# -- a system whose only worker is compromised -------------------------------------------------------


def raw_result(number: int, *outcome: object) -> bytes:
    """A frame with a Result that the honest encoder would not write."""
    return packed([wire.PROTOCOL_VERSION, [[34, number, [*outcome]]]])


def completed(**fields: object) -> Completed:
    return Completed(USAGE, **fields)  # type: ignore[arg-type]


ILL_OUTCOMES: dict[str, Completed | Failed] = {
    "value that is no JSON": completed(return_value=b"{nope"),
    "value that is no UTF-8": completed(return_value=b'"\xff"'),
    "empty value": completed(return_value=b""),
    "value that ends the message": completed(return_value=b'1}},{"type":"RESULT","result":{"returnValue":2'),
    "two values": completed(return_value=b"1 2"),
    "control character": completed(return_value=b'"\x01"'),
    "bad escape": completed(return_value=b'"\\q"'),
    "lone surrogate": completed(return_value=b'"\\ud800"'),
    "mutations that are no JSON": completed(mutations=b"]"),
    "mutations that are no array": completed(mutations=b'{"op":"set"}'),
    "mutation of another kind": completed(mutations=b'[{"op":"merge","key":"a","value":1}]'),
    "mutation without a key": completed(mutations=b'[{"op":"set","value":1}]'),
    "mutation without a value": completed(mutations=b'[{"op":"set","key":"a"}]'),
    "mutation of a number": completed(mutations=b'[{"op":"set","key":5,"value":1}]'),
    "mutation of a long key": completed(mutations=b'[{"op":"set","key":"' + b"k" * 300 + b'","value":1}]'),
    "mutation that ends the frame": completed(mutations=b'[],"x":[{"op":"set","key":"a","value":1}]'),
    "half bad mutations": completed(mutations=b'[{"op":"set","key":"a","value":1},{"op":"set","key":"b"}]'),
    "event that is no JSON": completed(events=(b"nope",)),
    "event without a name": completed(events=(b'{"payload":1}',)),
    "event that ends the frame": completed(events=(b'{"name":"a","payload":1}},{"type":"EVENT"',)),
    "one bad event of two": completed(events=(b'{"name":"good","payload":1,"timestamp":1}', b"{")),
    "view commands that are no JSON": completed(view_commands=b"nope"),
    "view commands that end the frame": completed(view_commands=b'[],"metrics":{}'),
    "state above the "
    "limit": completed(mutations=b'[{"op":"set","key":"a","value":"' + b"x" * 17 * MIB + b'"}]'),
    "too many keys": completed(
        mutations=b"[" + b",".join(b'{"op":"set","key":"%d","value":1}' % n for n in range(70_000)) + b"]"
    ),
    "failure with details that are no JSON": Failed(USAGE, Reason.TRAP, "m", details=b"nope"),
    "failure with details of a list": Failed(USAGE, Reason.TRAP, "m", details=b"[1]"),
    "failure that claims another "
    "reason": Failed(USAGE, Reason.TRAP, "m", details=b'{"reason":"none","location":{"line":-5}}'),
    "failure at a negative line": Failed(USAGE, Reason.TRAP, "m", line=-5, column=-5),
    "failure with usage of all kinds": Failed(Usage(-(2**63), -1, -1, 2**63 - 1, -5, True), Reason.TRAP, "m"),
    "failure with a long message": Failed(USAGE, Reason.TRAP, "m" * MIB),
    "failure with long details": Failed(USAGE, Reason.TRAP, "m", details=b'{"stack":"' + b"s" * MIB + b'"}'),
    "log that forges lines": Failed(
        USAGE, Reason.TRAP, "m", log=(LogLine(99, "a\n2026-01-01 ERROR "
                                                  "forged"), LogLine(-1, "\x1b[2J"), LogLine(1, "x" * MIB))
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ILL_OUTCOMES)
def test_ill_outcome_fails_its_own_job_and_nothing_else(rogued: Rogued, kind: str) -> None:
    system, rogue = rogued
    asked = {**tool("ask", returns(1)), "limits": {"outputBytes": 4 * MIB}}
    panel = system.make_panel(asked, state={"kept": 1})
    answers: Iterator[Completed | Failed] = itertools.chain(
        [ILL_OUTCOMES[kind]], itertools.repeat(completed(return_value=b'"ok"'))
    )
    rogue.behave = lambda job: [Result(job.job, next(answers))]
    with system.connect(panel) as client, system.connect(panel) as watcher:
        answer = client.trigger("ask")
        assert answer.reason in ("INVALID_RESULT", "LIMIT_EXCEEDED", "TRAP"), answer.final
        assert len(json.dumps(answer.final)) <= 8_192
        assert answer.heard == []
        assert client.call("ask") == "ok"
        assert watcher.barrier() == []
        assert client.barrier() == []
    assert system.state(panel) == {"kept": 1}
    assert "\n2026-01-01 ERROR forged" not in system.the_gateway().text


def test_usage_that_lies_breaks_no_answer(rogued: Rogued) -> None:
    system, rogue = rogued
    lies = [
        Usage(-(2**63), -(2**63), -1, -1, -1, True),
        Usage(2**63 - 1, 2**63 - 1, 2**63 - 1, 2**63 - 1, 2**63 - 1),
    ]
    answers = iter([Completed(usage, b"1") for usage in lies] + [completed(return_value=b"2")] * 3)
    rogue.behave = lambda job: [Result(job.job, next(answers))]
    with system.connect(system.make_panel(tool("ask", returns(1)))) as client:
        assert [client.call("ask") for _ in range(5)] == [1, 1, 2, 2, 2]


def test_answer_given_many_times_counts_once(rogued: Rogued) -> None:
    system, rogue = rogued
    panel = system.make_panel(tool("ask", returns(1)), state={"n": 0})

    def thrice(job: Job) -> Sequence[ToGateway]:
        return [
            Result(job.job, completed(mutations=b'[{"op":"set","key":"n","value":%d}]' % n))
            for n in (1, 2, 3)
        ]

    rogue.behave = thrice
    with system.connect(panel) as client:
        answers = [client.trigger("ask") for _ in range(10)]
        assert client.barrier() == []
    assert [patch["mutations"][0]["value"] for answer in answers for patch in answer.heard] == [1] * 10
    assert system.seq(panel) == 10


def test_mutations_of_one_key_twice_count_last(rogued: Rogued) -> None:
    system, rogue = rogued
    panel = system.make_panel(tool("ask", returns(1)))
    twice = b'[{"op":"set","key":"a","value":1},{"op":"delete","key":"a"},{"op":"set","key":"a","value":2}]'
    rogue.behave = lambda job: [Result(job.job, completed(mutations=twice))]
    with system.connect(panel) as client:
        client.call("ask")
    assert system.state(panel) == {"a": 2}


def test_worker_that_breaks_off_in_bad_frames_loses_its_jobs_to_another(rogued: Rogued) -> None:
    """The peer is disconnected, its job goes to whoever comes next, and is answered once."""
    system, rogue = rogued
    panel = system.make_panel(tool("ask", returns(1)))
    bad = itertools.count()

    def babble(job: Job) -> Sequence[ToGateway]:
        if next(bad) == 0:
            rogue.say_raw(raw_result(job.job, 1, "usage", CANARY))
            rogue.say(rogue.hello())
            return ()
        return [Result(job.job, completed(return_value=b'"second"'))]

    rogue.behave = babble
    with system.connect(panel) as client:
        assert client.call("ask") == "second"
    assert len(rogue.jobs) == 2
    assert CANARY not in system.the_gateway().text


def test_worker_that_lacks_everything_for_ever_is_given_up(rogued: Rogued) -> None:
    system, rogue = rogued
    kinds: tuple[Literal["tool", "replica", "artifact"], ...] = ("tool", "replica", "artifact")
    what = itertools.cycle(kinds)
    rogue.behave = lambda job: [Missing(job.job, next(what))]
    with system.connect(system.make_panel(tool("ask", returns(1)))) as client:
        assert client.trigger("ask").reason == "WORKER_LOST"
    assert len(rogue.jobs) < 50


def test_worker_that_answers_out_of_order_cannot_reorder_commits(rogued: Rogued) -> None:
    system, rogue = rogued
    panel = system.make_panel(tool("ask", returns(1)))
    held: list[Job] = []

    def backwards(job: Job) -> Sequence[ToGateway]:
        held.append(job)
        if len(held) < 2:
            return ()
        first, second = held
        held.clear()
        return [Result(job.job, completed(return_value=job.args)) for job in (second, first, second)]

    rogue.behave = backwards
    with system.connect(panel) as client:
        sent = [client.send_trigger("ask", number) for number in range(2)]
        finals = [client.receive_type("RESULT") for _ in sent]
        assert client.barrier() == []
    assert [final["requestId"] for final in finals] == sent
    assert [final["result"]["returnValue"] for final in finals] == [0, 1]
    assert metric(system, "panels_results_forged_total") > 0


# -- hangs and vanishings ----------------------------------------------------------------------------


def test_job_of_a_worker_that_never_answers_is_run_by_another(make_system: MakeSystem) -> None:
    """It beats, so it is alive; its job's deadline and a grace show that it makes no progress."""
    system = make_system(processes=0)
    panel = ""
    with Rogue(system.endpoint, silence) as rogue:
        system.await_ready()
        panel = system.make_panel({**counter(), "limits": {"timeoutMs": 100}}, state={"count": 0})
        with system.connect(panel) as client:
            sent = [client.send_trigger("count") for _ in range(3)]
            eventually(lambda: rogue.jobs, what="the rogue to be given a job")
            system.start_pool(processes=1)
            answers = client.await_answers(sent)
    assert [answer.value for answer in answers] == [1, 2, 3]


def test_jobs_of_a_worker_that_vanishes_are_run_by_another(make_system: MakeSystem) -> None:
    """No Goodbye, no Exited: silence alone tells."""
    system = make_system(processes=0)
    with Rogue(system.endpoint, silence) as rogue:
        system.await_ready()
        panel = system.make_panel(counter(), state={"count": 0})
        with system.connect(panel) as client:
            sent = [client.send_trigger("count") for _ in range(3)]
            eventually(lambda: rogue.jobs, what="the rogue to be given a job")
            system.start_pool(processes=1)
            rogue.vanish()
            answers = client.await_answers(sent)
    assert [answer.value for answer in answers] == [1, 2, 3]


def test_late_answer_of_a_worker_that_was_given_up_is_dropped(make_system: MakeSystem) -> None:
    system = make_system(processes=0)
    with Rogue(system.endpoint, silence) as rogue:
        system.await_ready()
        panel = system.make_panel({**counter(), "limits": {"timeoutMs": 100}}, state={"count": 0})
        with system.connect(panel) as client:
            request_id = client.send_trigger("count")
            eventually(lambda: rogue.jobs, what="the rogue to be given a job")
            system.start_pool(processes=1)
            assert client.await_answer(request_id).value == 1
            late = completed(return_value=b"666", mutations=b'[{"op":"set","key":"count","value":666}]')
            before = metric(system, "panels_bus_messages_received_total")
            rogue.say(*(Result(job.job, late) for job in rogue.jobs))
            eventually(lambda: metric(system, "panels_bus_messages_received_total") > before)
            assert client.call("count") == 2
