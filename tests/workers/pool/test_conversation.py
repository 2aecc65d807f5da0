from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import zmq
from zmq.auth.thread import ThreadAuthenticator

from panels_shared.endpoint import CurveKeys
from panels_shared.messages import Abandon, Exited, Goodbye, Hello, PoolId, Prepare, Prepared, Replace
from panels_worker.pool.conversation import MAX_UNSENT, PATIENCE_S, Conversation
from tests.support.fake_gateway import FakeGateway
from tests.support.system import eventually

POOL = PoolId(b"p" * 16)
HELLO = Hello(role="pool", pool=POOL, pid=os.getpid(), versions={})


@pytest.fixture
def endpoint() -> Iterator[str]:
    # pytest's own folders have paths too long for a socket
    folder = tempfile.mkdtemp(prefix="panels-")
    yield f"ipc://{folder}/s"
    shutil.rmtree(folder)


def begin(endpoint: str) -> Conversation:
    return Conversation(endpoint, None, pool=POOL, hello=lambda: HELLO, now_s=time.monotonic())


def turn(conversation: Conversation) -> list[Prepare | Abandon | Replace]:
    conversation.socket.poll(5, conversation.wanted_events)
    wanted = conversation.read(time.monotonic())
    conversation.say(time.monotonic())
    return wanted


def test_conversation_says_hello_beats_and_says_goodbye(endpoint: str) -> None:
    conversation = begin(endpoint)
    with FakeGateway(endpoint) as gateway:
        gateway.wait(lambda: not turn(conversation) and bool(gateway.beats))
        assert POOL in gateway.pools
        conversation.close()
        gateway.wait(lambda: any(isinstance(message, Goodbye) for _, message in gateway.heard))


def test_conversation_passes_on_what_is_to_be_prepared_and_answers(endpoint: str) -> None:
    conversation = begin(endpoint)
    request = Prepare(b"d" * 32, "wat", "handle", b"(module)")
    answer = Prepared(request.digest, None)
    with FakeGateway(endpoint) as gateway:
        gateway.wait(lambda: not turn(conversation) and POOL in gateway.pools)
        gateway.send(POOL, request)
        wanted: list[Prepare | Abandon | Replace] = []

        def asked() -> bool:
            wanted.extend(turn(conversation))
            return bool(wanted)

        gateway.wait(asked)
        assert wanted == [request]
        conversation.queue([answer])
        gateway.wait(lambda: not turn(conversation) and (POOL, answer) in gateway.heard)
        conversation.close()


def test_conversation_says_hello_again_as_soon_as_the_connection_breaks(endpoint: str) -> None:
    conversation = begin(endpoint)
    stopped_s = time.monotonic()  # time stands still: no silence is ever noticed

    def turned() -> bool:
        conversation.socket.poll(5, conversation.wanted_events)
        conversation.read(stopped_s)
        conversation.say(stopped_s)
        return True

    with FakeGateway(endpoint) as gateway:
        gateway.wait(lambda: turned() and POOL in gateway.pools)
    with FakeGateway(endpoint) as gateway:
        gateway.wait(lambda: turned() and POOL in gateway.pools)
        conversation.close()


def test_conversation_keeps_a_bounded_number_of_messages_without_a_gateway(endpoint: str) -> None:
    conversation = begin(endpoint)
    conversation.queue(Exited(b"%16d" % number) for number in range(MAX_UNSENT + 3))
    conversation.say(time.monotonic())
    assert len(conversation._unsent) == MAX_UNSENT
    assert conversation._unsent[0] == Exited(b"%16d" % 3)
    assert conversation.wanted_events == zmq.POLLIN | zmq.POLLOUT
    conversation.close()


def test_conversation_says_that_no_gateway_welcomes_it_and_that_one_does_after_all(
    endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    conversation = begin(endpoint)
    now_s = time.monotonic()
    conversation.say(now_s + PATIENCE_S / 2)
    assert caplog.messages == []
    conversation.say(now_s + PATIENCE_S + 1)
    conversation.say(now_s + PATIENCE_S + 2)
    (complaint,) = caplog.messages
    assert complaint.startswith(f"the gateway at {endpoint} has not welcomed this pool for ")
    assert f"there is no socket {endpoint.removeprefix('ipc://')}" in complaint
    conversation.say(now_s + PATIENCE_S + 100)
    assert "has not welcomed this pool for 11" in caplog.messages[1]
    with FakeGateway(endpoint) as gateway:
        gateway.wait(lambda: not turn(conversation) and len(caplog.messages) > 2)
    assert caplog.messages[2:] == [f"the gateway at {endpoint} is there"]
    conversation.close()


def test_conversation_is_refused_for_good_by_a_gateway_that_does_not_know_its_curve_key() -> None:
    public, secret = zmq.curve_keypair()
    own_public, own_secret = zmq.curve_keypair()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        authenticator = ThreadAuthenticator(context)
        authenticator.start()
        authenticator.configure_curve_callback("*", SimpleNamespace(callback=lambda domain, key: False))
        router.set(zmq.CURVE_SERVER, 1)
        router.set(zmq.CURVE_SECRETKEY, secret)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        curve = CurveKeys(public=own_public, secret=own_secret, peers=frozenset({public}))
        conversation = Conversation(
            f"tcp://127.0.0.1:{port}", curve, pool=POOL, hello=lambda: HELLO, now_s=time.monotonic()
        )
        eventually(lambda: not turn(conversation) and conversation.refused)
        conversation.close()
        authenticator.stop()
