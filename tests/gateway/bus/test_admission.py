"""Who is admitted to the bus, and what is heard from whom."""

from __future__ import annotations

import os

import pytest

from panels_gateway.bus.admission import (
    MAX_HELLO_FRAME_BYTES,
    MAX_SANDBOXES_PER_POOL,
    MAX_SPENT_PER_POOL,
    Admission,
    Role,
    Verdict,
)
from panels_gateway.observe.counters import BrokerCounters
from panels_shared import messages as m
from panels_shared import wire
from panels_shared.buskey import beat_id, pool_proof, sandbox_ticket
from panels_shared.messages import ToGateway
from panels_shared.outcome import Completed, Usage

KEY = b"k" * 32
POOL, OTHER_POOL = b"p" * 16, b"q" * 16
WORKER, OTHER_WORKER = b"w" * 16, b"v" * 16

RESULT = m.Result(1, Completed(Usage()))


def pool_hello(pool: bytes = POOL, *, key: bytes = KEY) -> m.Hello:
    return m.Hello("pool", pool, 1, {"panels": "1"}, pool_proof(key, pool))


def sandbox_hello(worker: bytes = WORKER, pool: bytes = POOL, *, key: bytes = KEY) -> m.Hello:
    return m.Hello("sandbox", pool, 1, {}, sandbox_ticket(key, worker, pool), ("seccomp",), ("user (why)",))


@pytest.fixture
def admission() -> Admission:
    return Admission(KEY, BrokerCounters())


@pytest.fixture
def full(admission: Admission) -> Admission:
    """Two pools with a sandbox each."""
    for pool, worker in ((POOL, WORKER), (OTHER_POOL, OTHER_WORKER)):
        assert admission.hello(pool, pool_hello(pool)) is Verdict.ADMITTED
        assert admission.hello(worker, sandbox_hello(worker, pool)) is Verdict.ADMITTED
    return admission


def role(admission: Admission, peer: bytes) -> Role | None:
    standing = admission.standing(peer)
    return None if standing is None else standing.role


def test_peers_are_what_they_prove(full: Admission) -> None:
    assert role(full, POOL) is Role.POOL
    assert role(full, WORKER) is Role.SANDBOX
    assert role(full, beat_id(WORKER)) is Role.BEAT
    assert role(full, b"x" * 16) is None


@pytest.mark.parametrize(
    ("peer", "hello"),
    [
        (POOL, m.Hello("pool", POOL, 1, {})),
        (POOL, pool_hello(key=b"K" * 32)),
        (POOL, pool_hello(OTHER_POOL)),
        (POOL, m.Hello("sandbox", POOL, 1, {}, pool_proof(KEY, POOL))),
        (WORKER, sandbox_hello(key=b"K" * 32)),
        (WORKER, sandbox_hello(OTHER_WORKER)),
        (WORKER, m.Hello("sandbox", OTHER_POOL, 1, {}, sandbox_ticket(KEY, WORKER, POOL))),
        (WORKER, m.Hello("pool", POOL, 1, {}, sandbox_ticket(KEY, WORKER, POOL))),
        (WORKER, m.Hello("pool", WORKER, 1, {}, sandbox_ticket(KEY, WORKER, POOL))),
        (beat_id(WORKER), m.Hello("pool", b"", 1, {}, pool_proof(KEY, beat_id(WORKER)))),
        (b"short", pool_hello(b"short")),
        (WORKER, m.Hello("sandbox", POOL[:-1], 1, {}, sandbox_ticket(KEY, WORKER, POOL[:-1]))),
    ],
    ids=[
        "nothing", "pool with another key", "pool under another id", "pool as a sandbox",
        "sandbox with another key", "ticket of another sandbox", "ticket of another pool",
        "ticket of a sandbox as a pool", "ticket of a sandbox as its own pool", "beat as a pool", "short id",
        "short pool",
    ],
)  # fmt: skip
def test_hello_that_does_not_prove_what_it_claims_is_refused(
    admission: Admission, peer: bytes, hello: m.Hello
) -> None:
    assert admission.hello(peer, hello) is Verdict.UNPROVED
    assert role(admission, peer) is None
    assert admission.counters.hellos_refused == 1


def test_sandbox_is_admitted_again_and_before_its_pool(admission: Admission) -> None:
    """After a restart of the gateway they come in any order; after a silence they say Hello again."""
    for _ in range(3):
        assert admission.hello(WORKER, sandbox_hello()) is Verdict.ADMITTED
    assert admission.hello(POOL, pool_hello()) is Verdict.ADMITTED
    assert [pool.sandboxes for pool in admission.pools()] == [1]


def test_ticket_of_a_sandbox_that_has_ended_admits_nobody(full: Admission) -> None:
    full.exited(POOL, WORKER)
    assert role(full, WORKER) is role(full, beat_id(WORKER)) is None
    assert full.hello(WORKER, sandbox_hello()) is Verdict.SPENT
    # one that ended before it ever said Hello
    full.exited(POOL, b"u" * 16)
    assert full.hello(b"u" * 16, sandbox_hello(b"u" * 16)) is Verdict.SPENT
    assert role(full, OTHER_WORKER) is Role.SANDBOX


def test_pool_spends_only_ids_of_its_own(full: Admission) -> None:
    standing = full.standing(POOL)
    assert standing is not None
    assert full.allows(standing, m.Exited(WORKER))
    assert full.allows(standing, m.Exited(os.urandom(16)))
    for foreign in (OTHER_WORKER, OTHER_POOL, POOL, beat_id(WORKER)):
        assert not full.allows(standing, m.Exited(foreign))
    # of one that is not there yet nobody knows whose it is: it is spent for this pool alone
    full.exited(POOL, b"u" * 16)
    assert full.hello(b"u" * 16, sandbox_hello(b"u" * 16, OTHER_POOL)) is Verdict.ADMITTED


SAYINGS: list[tuple[ToGateway, set[Role]]] = [
    (m.Heartbeat(WORKER, 1), {Role.SANDBOX, Role.BEAT}),
    (m.Heartbeat(POOL, 1), {Role.POOL}),
    (m.Heartbeat(OTHER_WORKER, 1), set()),
    (m.Heartbeat(OTHER_POOL, 1), set()),
    (RESULT, {Role.SANDBOX}),
    (m.Missing(1, "tool"), {Role.SANDBOX}),
    (m.Prepared(b"d" * 32, None), {Role.POOL}),
    (m.Exited(WORKER), {Role.POOL}),
    (m.Goodbye(True), {Role.POOL, Role.SANDBOX}),
    (m.Goodbye(False), {Role.POOL, Role.SANDBOX}),
    (pool_hello(), {Role.POOL, Role.SANDBOX}),  # what it claims is decided by ``hello``
]


@pytest.mark.parametrize(("message", "roles"), SAYINGS, ids=[type(case[0]).__name__ for case in SAYINGS])
def test_each_role_says_its_own(full: Admission, message: ToGateway, roles: set[Role]) -> None:
    allowed = set()
    for peer in (POOL, WORKER, beat_id(WORKER)):
        standing = full.standing(peer)
        assert standing is not None
        if full.allows(standing, message):
            allowed.add(standing.role)
    assert allowed == roles


@pytest.mark.parametrize("peer", [WORKER, beat_id(WORKER)])
def test_sandbox_that_breaks_the_rules_on_either_socket_is_out_for_ever(full: Admission, peer: bytes) -> None:
    full.breach(peer)
    assert role(full, WORKER) is role(full, beat_id(WORKER)) is None
    assert full.hello(WORKER, sandbox_hello()) is Verdict.SPENT
    assert full.counters.breaches == 1
    assert role(full, OTHER_WORKER) is Role.SANDBOX


def test_sandbox_that_claims_to_be_a_pool_is_out(full: Admission) -> None:
    claim = m.Hello("pool", b"", 1, {}, sandbox_ticket(KEY, WORKER, POOL))
    assert full.hello(WORKER, claim) is Verdict.BREACH
    assert full.hello(WORKER, sandbox_hello()) is Verdict.SPENT


def test_pool_that_breaks_the_rules_may_prove_itself_again(full: Admission) -> None:
    full.breach(POOL)
    assert role(full, POOL) is None
    assert full.hello(POOL, pool_hello()) is Verdict.ADMITTED


def test_pool_has_a_bounded_number_of_sandboxes_and_spent_ids(admission: Admission) -> None:
    ids = [b"%16d" % number for number in range(MAX_SANDBOXES_PER_POOL + 1)]
    verdicts = [admission.hello(worker, sandbox_hello(worker)) for worker in ids]
    assert verdicts == [Verdict.ADMITTED] * MAX_SANDBOXES_PER_POOL + [Verdict.CROWDED]
    assert admission.hello(ids[0], sandbox_hello(ids[0])) is Verdict.ADMITTED
    assert admission.hello(WORKER, sandbox_hello(pool=OTHER_POOL)) is Verdict.ADMITTED
    admission.exited(POOL, ids[0])
    assert admission.hello(ids[-1], sandbox_hello(ids[-1])) is Verdict.ADMITTED
    for number in range(MAX_SPENT_PER_POOL * 2):
        admission.exited(POOL, b"s%15d" % number)
    assert len(admission._books[POOL].spent) == MAX_SPENT_PER_POOL


def test_pools_without_end_leave_a_bounded_memory(admission: Admission) -> None:
    for number in range(1_000):
        pool, worker = b"p%15d" % number, b"w%15d" % number
        assert admission.hello(worker, sandbox_hello(worker, pool)) is Verdict.ADMITTED
        admission.exited(pool, b"e%15d" % number)
    assert len(admission._books) <= 256
    assert len(admission._standings) <= 2 * 256


def test_peers_that_are_gone_are_forgotten_and_those_of_a_pool_that_stays_are_kept(full: Admission) -> None:
    full.retain({POOL})
    assert [role(full, peer) for peer in (POOL, WORKER, beat_id(WORKER))] == [*Role]
    assert [role(full, peer) for peer in (OTHER_POOL, OTHER_WORKER, beat_id(OTHER_WORKER))] == [None] * 3
    assert full.hello(OTHER_WORKER, sandbox_hello(OTHER_WORKER, OTHER_POOL)) is Verdict.ADMITTED
    full.retain(set())
    assert not full._standings


def test_stranger_is_listened_to_for_a_small_hello_only(admission: Admission) -> None:
    frames = {
        True: [wire.encode([pool_hello()]), wire.encode([sandbox_hello(), m.Heartbeat(WORKER, 1)])],
        False: [
            b"", b"\x92", os.urandom(64), wire.encode([RESULT]), wire.encode([m.Goodbye(False), pool_hello()]),
            wire.encode([m.Heartbeat(POOL, 1)]), wire.encode([pool_hello()]) + bytes(MAX_HELLO_FRAME_BYTES),
        ],
    }  # fmt: skip
    for expected, examples in frames.items():
        for frame in examples:
            assert admission.listens_to((POOL, frame), frame) is expected
    assert admission.counters.strangers_dropped == len(frames[False])
    frame = wire.encode([pool_hello()])
    assert not admission.listens_to((POOL, b"", frame), frame)


def test_largest_real_hello_fits_into_a_strangers_frame() -> None:
    full = m.Hello(
        "sandbox", POOL, 2**22, {f"name-of-a-part-{n}": "1.2.3.dev45+g0123456789" for n in range(12)},
        bytes(32), ("no_new_privs",) * 12, ("landlock (" + "x" * 149 + ")",) * 12,
    )  # fmt: skip
    frame = wire.encode([full])
    assert wire.decode_to_gateway(frame) == [full]
    assert len(frame) <= MAX_HELLO_FRAME_BYTES


def test_summary_counts_layers_and_holds_no_ids(full: Admission) -> None:
    first, second = full.pools()
    assert (first.sandboxes, first.layers, first.missing) == (1, {"seccomp": 1}, {"user (why)": 1})
    assert first.versions == {"panels": "1"}
    assert second.sandboxes == 1
