"""The bus knows who speaks: strangers, and sandboxes that were taken over though they are confined by every
layer that this machine has. They are given nothing that is not theirs, and nobody else notices.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from panels_shared import wire
from panels_shared.messages import Exited, Goodbye, Hello, ToGateway, Welcome
from tests.integration.guests import counter
from tests.integration.test_bus import assert_served, metric
from tests.support.backdoor import TakenOver, run_attack, start_taken_over_pool
from tests.support.rogue import bus_key, pool_hello, sandbox_hello, stranger
from tests.support.system import System, eventually, running_system

PANELS = 8


@pytest.fixture(scope="module")
def bus(cache_dir: Path) -> Iterator[System]:
    """A system with one honest sandbox, beside which others are taken over."""
    with running_system(processes=1, cache_dir=cache_dir) as system:
        yield system


def make_panels(system: System) -> list[str]:
    """Panels whose handlers no pool has compiled yet, so that a pool that comes is asked to."""
    made = [system.make_panel(counter(), state={"count": 0, "secret": "s3cret"}) for _ in range(PANELS)]
    for panel in made:
        with system.connect(panel) as client:
            assert client.call("count") == 1
    return made


def assert_undisturbed(system: System, panels: list[str]) -> None:
    for panel in panels:
        with system.connect(panel) as client:
            before = system.state(panel)["count"]
            assert [client.call("count") for _ in range(3)] == [before + 1, before + 2, before + 3]


def attacked(system: System, attack: str) -> list[str]:
    """What the attack printed that ran in a taken-over sandbox beside the honest one."""
    taken: TakenOver = start_taken_over_pool(system, attack)
    try:
        return taken.await_end()
    finally:
        assert taken.pool.stop() == 0
        system.pools.remove(taken.pool)


# -- strangers ---------------------------------------------------------------------------------------


def test_stranger_is_given_nothing_whoever_it_claims_to_be(bus: System) -> None:
    """Neither jobs nor states nor handlers, nor even a Welcome."""
    pool, key = os.urandom(16), os.urandom(32)
    claims = [
        Hello("pool", b"", 1, {}), Hello("pool", pool, 1, {}), Hello("sandbox", pool, 1, {}),
        pool_hello(key, pool), sandbox_hello(key, pool, pool),
    ]  # fmt: skip
    before = metric(bus, "panels_bus_hellos_refused_total")
    with stranger(bus.endpoint, pool) as dealer:
        for claim in claims:
            dealer.send(wire.encode([claim]))
        eventually(lambda: metric(bus, "panels_bus_hellos_refused_total") >= before + len(claims))
        assert_undisturbed(bus, make_panels(bus))
        assert not dealer.poll(0)
    assert "is not admitted" in bus.the_gateway().text


def test_ticket_of_a_sandbox_that_has_ended_is_worth_nothing(bus: System) -> None:
    key, pool, worker = bus_key(bus.endpoint), os.urandom(16), os.urandom(16)
    ticket = wire.encode([sandbox_hello(key, worker, pool)])
    with stranger(bus.endpoint, pool) as pools:
        pools.send(wire.encode([pool_hello(key, pool)]))
        with stranger(bus.endpoint, worker) as first:
            first.send(ticket)
            assert first.poll(10_000), "it is welcomed while it lives"
        pools.send(wire.encode([Exited(worker)]))
        lost = metric(bus, "panels_bus_hellos_refused_total")
        with stranger(bus.endpoint, worker) as second:
            second.send(ticket)
            eventually(lambda: metric(bus, "panels_bus_hellos_refused_total") > lost)
            assert not second.poll(0)
        pools.send(wire.encode([Goodbye(False)]))


def test_routing_id_that_is_connected_is_not_handed_over(bus: System) -> None:
    key, pool, worker = bus_key(bus.endpoint), os.urandom(16), os.urandom(16)
    ticket = wire.encode([sandbox_hello(key, worker, pool)])
    with stranger(bus.endpoint, worker) as first:
        first.send(ticket)
        assert first.poll(10_000)
        received = metric(bus, "panels_bus_frames_received_total")
        with stranger(bus.endpoint, worker) as second:
            monitor = second.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
            second.send(ticket)
            monitor.poll(2_000)
            assert_served(bus)
            assert not second.poll(0)
            second.disable_monitor()
            monitor.close()
        while first.poll(0):
            first.recv()
        assert metric(bus, "panels_bus_frames_received_total") >= received
        assert first.poll(10_000), "the first one still hears the gateway"
        first.send(wire.encode([Goodbye(False)]))


BREACHES: dict[str, ToGateway] = {
    "Exited": Exited(b"x" * 16),
    "Hello as a pool": Hello("pool", b"", 1, {}),
}


@pytest.mark.parametrize("kind", BREACHES)
def test_admitted_sandbox_that_speaks_as_a_pool_is_out(bus: System, kind: str) -> None:
    key, pool, worker = bus_key(bus.endpoint), os.urandom(16), os.urandom(16)
    breaches = metric(bus, "panels_bus_breaches_total")
    with stranger(bus.endpoint, worker) as dealer:
        dealer.send(wire.encode([sandbox_hello(key, worker, pool)]))
        assert dealer.poll(10_000)
        dealer.send(wire.encode([BREACHES[kind]]))
        eventually(lambda: metric(bus, "panels_bus_breaches_total") == breaches + 1)
        while dealer.poll(0):
            assert isinstance(wire.decode_to_worker(dealer.recv())[0], Welcome)
        refused = metric(bus, "panels_bus_hellos_refused_total")
        dealer.send(wire.encode([sandbox_hello(key, worker, pool)]))
        eventually(lambda: metric(bus, "panels_bus_hellos_refused_total") > refused)
        assert not dealer.poll(0)


# -- a sandbox that was taken over -------------------------------------------------------------------

NEW_SOCKETS = """
import ctypes, socket, time
import zmq
from panels_shared import messages as m

def connected(family, address):
    with socket.socket(family) as made:
        made.connect(address)

def attack(captive):
    path = captive.config.endpoint.removeprefix("ipc://")
    captive.attempt("a socket", socket.socket)
    captive.attempt("the bus", lambda: connected(socket.AF_UNIX, path))
    captive.attempt("tcp", lambda: connected(socket.AF_INET, ("127.0.0.1", 9)))
    libc = ctypes.CDLL(None, use_errno=True)
    captive.attempt("connect", lambda: (libc.connect(captive.jobs.get(zmq.FD), b"", 0), ctypes.get_errno()))
    captive.attempt("the bus key", lambda: open(path + ".key", "rb").read())
    # what libzmq makes of it: the call is refused, and tried again for ever
    captive.beats.set(zmq.ROUTING_ID, b"y" * 16)
    captive.beats.connect(captive.config.endpoint)
    time.sleep(1.5)
    for _ in range(4):
        captive.say(captive.beats, m.Heartbeat(captive.config.worker, 1))
"""


def test_confined_sandbox_opens_no_connection_and_reads_no_key(bus: System) -> None:
    turned_away = metric(bus, "panels_bus_strangers_dropped_total")
    printed = attacked(bus, NEW_SOCKETS)
    assert printed == [
        "a socket: PermissionError 1",
        "the bus: PermissionError 1",
        "tcp: PermissionError 1",
        "connect: (-1, 1)",
        "the bus key: PermissionError 13",
        "the attack has ended",
    ]
    # all four heartbeats came by the connection that there is, under its own name
    assert metric(bus, "panels_bus_strangers_dropped_total") == turned_away


NEW_DEALER = """
import zmq

def attack(captive):
    print("making a dealer")
    captive.process.context.socket(zmq.DEALER)
"""


def test_new_dealer_is_the_end_of_a_confined_sandbox(bus: System) -> None:
    """libzmq cannot make one without calls that are denied, and gives up the process."""
    taken = start_taken_over_pool(bus, NEW_DEALER)
    eventually(lambda: "ended: signal" in taken.pool.text, within_s=40, what="the sandbox to end")
    assert taken.pool.stop() == 0
    bus.pools.remove(taken.pool)
    assert taken.printed()[0] == "making a dealer"
    assert "the attack has ended" not in taken.printed()


POSES = """
import os
from panels_shared import messages as m

def attack(captive):
    ticket, pool = captive.config.ticket, captive.config.pool
    socket = captive.{socket}
    captive.say(socket, {messages})
    heard = captive.hear(captive.jobs, 2.5) + captive.hear(captive.beats, 0.5)
    print("given " + ", ".join(sorted({{type(each).__name__ for each in heard}} - {{"Welcome"}})))
    captive.say(captive.jobs, m.Hello("sandbox", pool, os.getpid(), {{}}, ticket))
    heard = captive.hear(captive.jobs, 1.5)
    print("given again " + ", ".join(sorted({{type(each).__name__ for each in heard}})))
"""
#: What is said on which of the two sockets; all of it is a breach.
ATTACKS = {
    "pool on the second socket": ("beats", 'm.Hello("pool", b"", 1, {})'),
    "pool on the first socket": ("jobs", 'm.Hello("pool", b"", 1, {})'),
    "pool by the ticket": ("beats", 'm.Hello("pool", pool, 1, {}, ticket)'),
    "ticket replayed on the second socket": ("beats", 'm.Hello("sandbox", pool, 1, {}, ticket)'),
    "new sandbox": ("beats", 'm.Hello("sandbox", os.urandom(16), 1, {}, ticket)'),
    "sandbox of another pool": ("jobs", 'm.Hello("sandbox", os.urandom(16), 1, {}, ticket)'),
    "heartbeat for another": ("beats", "m.Heartbeat(os.urandom(16), 1)"),
    "heartbeat for its pool": ("beats", "m.Heartbeat(pool, 1)"),
    "end of another": ("jobs", "m.Exited(os.urandom(16))"),
    "handler prepared": ("jobs", "m.Prepared(b'd' * 32, None)"),
    "goodbye of its pool": ("beats", "m.Goodbye(False)"),
    "jobs on the second socket": ("beats", 'm.Missing(1, "tool")'),
}


@pytest.mark.parametrize("kind", ATTACKS)
def test_taken_over_sandbox_that_poses_is_out_and_given_nothing(bus: System, kind: str) -> None:
    panels = make_panels(bus)
    breaches = metric(bus, "panels_bus_breaches_total")
    socket, messages = ATTACKS[kind]
    printed = attacked(bus, POSES.format(socket=socket, messages=messages))
    assert printed == ["given ", "given again ", "the attack has ended"]
    assert metric(bus, "panels_bus_breaches_total") == breaches + 1
    assert_undisturbed(bus, panels)


def test_pool_with_a_backdoor_is_a_pool_like_any_other(cache_dir: Path) -> None:
    """Or else these proofs would prove nothing: what does not attack is welcomed, and confined."""
    printed = run_attack(
        "def attack(captive):\n"
        "    print(captive.process.confinement.summary())\n"
        "    print(len(captive.hear(captive.jobs, 1.5)) > 0)\n"
    )
    assert re.match(r"no_new_privs, rlimits, .*seccomp", printed[0])
    assert printed[1] == "True"


# -- what is told ------------------------------------------------------------------------------------


def test_health_tells_the_layers_of_every_pool(bus: System) -> None:
    def look() -> bool:
        pools = bus.http.get("/health").json()["pools"]
        return [pool["sandboxes"] for pool in pools] == [1]

    eventually(look, what="the taken-over pools to be gone")
    answer = bus.http.get("/health")
    (pool,) = answer.json()["pools"]
    assert pool["layers"]["seccomp"] == pool["layers"]["no_new_privs"] == 1
    assert set(pool["versions"]) >= {"panels", "wasmtime"}
    for secret in (bus_key(bus.endpoint).hex(), "credential", "ticket"):
        assert secret not in answer.text


def test_sandboxes_without_confinement_are_a_problem_that_is_told() -> None:
    with running_system(processes=1, pool=("--confinement", "off")) as system:
        health = system.http.get("/health").json()
        assert health["status"] == "ready"
        assert health["pools"][0]["missing"] == {"everything (confinement is off)": 1}
        assert health["problems"] == ["1 sandboxes run without everything (confinement is off)"]
        assert "confinement is not complete" in system.pool.text
        assert "runs without" in system.the_gateway().text
