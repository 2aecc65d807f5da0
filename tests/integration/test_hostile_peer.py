"""A compromised worker that the gateway believes no more than it must: it comes in loops, floods, sends what
nobody asked for and reports what no handler can have done. All of it ends harmless.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence

import msgpack
import pytest

from panels_shared import wire
from panels_shared.messages import Goodbye, Hello, Job, Result, ToGateway
from panels_shared.outcome import Completed, ExtensionCall, LogLine, Suspended, Usage
from tests.integration.guests import returns, tool
from tests.integration.test_bus import metric, rss_mib
from tests.support.rogue import Rogue, admitted, stranger
from tests.support.system import System, eventually, running_system

MIB = 1024 * 1024
USAGE = Usage(fuel=1, execution_us=1)
OK = Completed(USAGE, b'"ok"')

Rogued = tuple[System, Rogue]


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    """A gateway whose only worker will be a compromised one."""
    with running_system(processes=0) as running:
        yield running


@pytest.fixture
def rogued(system: System) -> Iterator[Rogued]:
    """The system and its one worker, which says nothing until it is told how to behave."""
    with Rogue(system.endpoint) as rogue:
        system.await_ready()
        yield system, rogue
        rogue.say(Goodbye(False))
    eventually(lambda: system.health() == 503, what="the gateway to notice that the worker is gone")


def limited(**limits: int) -> dict[str, object]:
    """A tool with these limits and no capability but to write ``count``, emit ``counted`` and show ``v``."""
    capabilities = ["state:write:count", "events:emit:counted", "view:update:v", "ext:http.get"]
    return {**tool("ask", returns(1)), "limits": limits, "capabilities": capabilities}


# -- loops -------------------------------------------------------------------------------------------


def hello(rogue: Rogue) -> None:
    rogue.say(rogue.hello())


def babble(rogue: Rogue) -> None:
    rogue.say_raw(b"no frame")
    hello(rogue)


def leave(rogue: Rogue) -> None:
    rogue.say(Goodbye(False))
    hello(rogue)


@pytest.mark.parametrize("again", [hello, babble, leave], ids=["Hello", "bad frame", "Goodbye"])
def test_job_of_a_worker_that_comes_in_a_loop_is_answered(
    rogued: Rogued, again: Callable[[Rogue], None]
) -> None:
    system, rogue = rogued
    system_panel = system.make_panel(limited(timeoutMs=1_000))
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(0.02):
            again(rogue)

    looping = threading.Thread(target=loop)

    def begin(job: Job) -> Sequence[ToGateway]:
        again(rogue)
        return ()

    rogue.behave = begin
    looping.start()
    try:
        with system.connect(system_panel) as client:
            assert client.trigger("ask").reason == "WORKER_LOST"
    finally:
        stop.set()
        looping.join()
    assert len(rogue.jobs) <= 20
    assert metric(system, "panels_workers_refused_total") > 0


# -- frames ------------------------------------------------------------------------------------------


def test_large_frame_of_empty_arrays_is_dropped_unread(rogued: Rogued) -> None:
    system, rogue = rogued
    before, rss = metric(system, "panels_bus_unasked_frames_total"), rss_mib(system)
    size = 60 * MIB
    rogue.say_raw(b"\x92\x01\x91\x93\x22\x01\xdd" + size.to_bytes(4, "big") + b"\x90" * size)
    eventually(lambda: metric(system, "panels_bus_unasked_frames_total") > before, what="it to be dropped")
    assert rss_mib(system) < rss + 200
    hello(rogue)


def test_result_beyond_what_its_tool_may_say_is_dropped_unread(rogued: Rogued) -> None:
    """5 MiB over an output limit of 1 KiB: the job is run by whoever comes next."""
    system, rogue = rogued
    before = metric(system, "panels_bus_unasked_frames_total")
    outcomes = itertools.chain(
        [completed(return_value=b'"' + b"x" * 5 * MIB + b'"')],
        itertools.repeat(OK),
    )

    def behave(job: Job) -> Sequence[ToGateway]:
        outcome = next(outcomes)
        rogue.say(Result(job.job, outcome))
        if outcome is not OK:
            hello(rogue)
        return ()

    rogue.behave = behave
    with system.connect(system.make_panel(limited(outputBytes=1_024))) as client:
        assert client.call("ask") == "ok"
    assert metric(system, "panels_bus_unasked_frames_total") == before + 1


def test_outcome_of_millions_of_elements_makes_no_objects(rogued: Rogued) -> None:
    """The frame is as large as a result may be, but there is no such outcome."""
    system, rogue = rogued
    rss = rss_mib(system)
    size = 5 * MIB
    answers = iter([b"\xdd" + size.to_bytes(4, "big") + b"\x90" * size])

    def behave(job: Job) -> Sequence[ToGateway]:
        if (outcome := next(answers, None)) is None:
            return [Result(job.job, OK)]
        rogue.say_raw(b"\x92\x01\x91\x93\x22" + msgpack.packb(job.job) + outcome)
        hello(rogue)
        return ()

    rogue.behave = behave
    with system.connect(system.make_panel(tool("ask", returns(1)))) as client:
        assert client.call("ask") == "ok"
    assert rss_mib(system) < rss + 100


def test_hello_with_a_long_name_of_a_pool_is_dropped_unread(system: System) -> None:
    before, rss = metric(system, "panels_bus_strangers_dropped_total"), rss_mib(system)
    with stranger(system.endpoint) as dealer:
        dealer.send(wire.encode([Hello("sandbox", b"p" * 60_000, 1, {})]))
        dealer.send(wire.encode([Hello("sandbox", b"p" * 60 * MIB, 1, {})]))
        eventually(lambda: metric(system, "panels_bus_strangers_dropped_total") >= before + 2)
    assert rss_mib(system) < rss + 200


# -- floods ------------------------------------------------------------------------------------------

FLOODS = {
    "bad frames": b"no frame",
    "forged results": wire.encode([Result(10**9 + n, OK) for n in range(wire.MAX_MESSAGES // 8)]),
    "Hellos": wire.encode([Hello("sandbox", b"", 1, {})] * 500),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_flood_is_throttled_and_leaves_little_in_the_log(system: System, kind: str) -> None:
    # who says Hello without its credential is a stranger from then on
    counted = "strangers_dropped" if kind == "Hellos" else "throttled_frames"
    name = f"panels_bus_{counted}_total"
    before, logged = metric(system, name), len(system.the_gateway().text)
    with admitted(system.endpoint) as dealer:
        for _ in range(2_000):
            dealer.send(FLOODS[kind])
        assert system.health() in (200, 503), "it answers during the flood"
        eventually(lambda: metric(system, name) > before + 100)
    assert len(system.the_gateway().text) < logged + 100_000


# -- results -----------------------------------------------------------------------------------------


def completed(**fields: object) -> Completed:
    return Completed(USAGE, **fields)  # type: ignore[arg-type]


def calling(*calls: ExtensionCall) -> Suspended:
    return Suspended(USAGE, calls, b"image")


EVENT = b'{"name":"counted","payload":1,"timestamp":1}'
DEEP = b"[" * 900 + b"]" * 900

LIES: dict[str, Completed | Suspended] = {
    "key that it may not write": completed(mutations=b'[{"op":"set","key":"secret","value":1}]'),
    "key that it may not delete": completed(mutations=b'[{"op":"delete","key":"secret"}]'),
    "event that it may not emit": completed(events=(EVENT.replace(b"counted", b"owned"),)),
    "too many events": completed(events=(EVENT,) * 5_000),
    "view that it may not update": completed(view_commands=b'[{"viewId":"w","command":"c","params":1}]'),
    "too many views": completed(
        view_commands=b"[" + b",".join([b'{"viewId":"v","command":"c","params":1}'] * 50) + b"]"
    ),
    "output above its limit": completed(return_value=b'"' + b"x" * 200_000 + b'"'),
    "call that it may not make": calling(ExtensionCall(1, "http", "post", b"[]")),
    "one call twice": calling(*[ExtensionCall(1, "http", "get", b"[]")] * 2),
    "call of no array": calling(ExtensionCall(1, "http", "get", b"{}")),
    "huge number": completed(return_value=b"1e999"),
    "huge number in a state": completed(mutations=b'[{"op":"set","key":"count","value":-1E+999}]'),
    "huge number beside an event": completed(events=(EVENT[:-1] + b',"more":1e999}',)),
    "integer of 5,000 digits": completed(return_value=b"9" * 5_000),
    "deep value": completed(return_value=DEEP),
    "deep state": completed(mutations=b'[{"op":"set","key":"count","value":%b}]' % DEEP),
    "deep event": completed(events=(EVENT.replace(b":1,", b":%b," % DEEP),)),
}


@pytest.mark.parametrize("kind", LIES)
def test_result_that_cannot_be_fails_its_trigger_and_its_worker(rogued: Rogued, kind: str) -> None:
    system, rogue = rogued
    panel = system.make_panel(limited(events=1, outputBytes=100_000), state={"secret": 1})
    answers = itertools.chain([LIES[kind]], itertools.repeat(OK))
    rogue.behave = lambda job: [Result(job.job, next(answers))]
    before = metric(system, "panels_bus_invalid_results_total")
    with system.connect(panel) as client:
        answer = client.trigger("ask")
        assert (answer.reason, answer.heard) == ("INVALID_RESULT", []), answer.final
        assert client.call("ask") == "ok"
    assert metric(system, "panels_bus_invalid_results_total") == before + 1
    assert system.state(panel) == {"secret": 1}


def test_usage_that_cannot_be_is_brought_within_its_bounds(rogued: Rogued) -> None:
    system, rogue = rogued
    lies = (
        Usage(-(2**63), -(2**63), -1, -1, -1),
        Usage(2**63 - 1, 2**63 - 1, 2**63 - 1, 2**63 - 1, 2**63 - 1),
    )
    answers = iter([Completed(usage, log=(LogLine(1, "x" * MIB),)) for usage in lies])
    rogue.behave = lambda job: [Result(job.job, next(answers))]
    limits = {"fuel": 1_000, "memoryBytes": MIB, "hostCalls": 10}
    with system.connect(system.make_panel(limited(**limits))) as client:
        least, most = (client.trigger("ask").final["result"]["metrics"] for _ in lies)
    assert (least["fuelConsumed"], least["executionTimeUs"], least["hostCalls"]) == (-1, 0, 0)
    assert (most["fuelConsumed"], most["memoryPeakBytes"], most["hostCalls"]) == (1_000, MIB, 11)
    assert most["executionTimeUs"] <= most["totalUs"] + 1_000
