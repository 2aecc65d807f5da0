"""The client without ``async``, against a scripted server that runs in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from panels_client import CallError, ClosedError, Options
from panels_client.sync import connect
from tests.clients.python.scripted import Peer, scripted

FAST = Options(backoff_initial_s=0.01, proxy=None)


@contextmanager
def counter() -> Iterator[str]:
    """A panel whose only tool adds to ``n``; ``fail`` fails, and ``end`` deletes the panel."""
    started: list[str] = []
    ready, done = threading.Event(), threading.Event()

    async def converse(peer: Peer) -> None:
        n = seq = 0
        await peer.greet({"n": 0})
        while True:
            request = await peer.hear()
            if request["tool"] == "end":
                await peer.close(4404)
                return
            if request["tool"] == "fail":
                error = {"type": "ERROR", "requestId": request["requestId"], "code": "EXECUTION_ERROR"}
                await peer.say({**error, "message": "m"})
                continue
            n, seq = n + request["args"], seq + 1
            mutation = {"op": "set", "key": "n", "value": n}
            await peer.say({"type": "PATCH", "mutations": [mutation], "seq": seq, "more": True})
            event = {"name": "added", "payload": n, "timestamp": 1}
            await peer.say({"type": "EVENT", "event": event, "seq": seq})
            await peer.answer(request, n, seq=seq)

    async def serving() -> None:
        async with scripted() as server:
            started.append(server.url)
            ready.set()
            conversation = asyncio.ensure_future(server.peer())
            while not done.is_set():
                await asyncio.wait([conversation], timeout=0.02)
                if conversation.done() and not conversation.cancelled():
                    peer = conversation.result()
                    task = asyncio.ensure_future(converse(peer))
                    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
                    conversation = asyncio.ensure_future(server.peer())
            conversation.cancel()

    thread = threading.Thread(target=asyncio.run, args=(serving(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield started[0]
    finally:
        done.set()
        thread.join()


def test_script_calls_and_reads() -> None:
    with counter() as url, connect(url, panel="p", options=FAST) as panel:
        seen: list[int] = []
        stop = panel.subscribe("n", lambda value, _: seen.append(value))
        panel.on("added", lambda event: seen.append(event.payload * 10))
        panel.on_notice(print)
        events = panel.events("added")
        assert panel.call("add", 1).value == 1
        stop()
        assert panel.call("add", 2, optimistic={"n": 3}).value == 3
        assert (panel.state, panel.seq, panel.status, panel.pending) == ({"n": 3}, 2, "live", ())
        assert [next(events).payload, next(events).payload] == [1, 3]
        assert seen == [1, 10, 30]
        assert panel.log == []


def test_script_hears_of_errors_and_of_the_end() -> None:
    with counter() as url:
        with connect(url, panel="p", options=FAST) as panel:
            events = panel.events()
            with pytest.raises(CallError, match="EXECUTION_ERROR"):
                panel.call("fail")
            with pytest.raises(ClosedError, match="panel_deleted"):
                panel.call("end")
            assert list(events) == []
            with pytest.raises(ClosedError):
                panel.answer("s", 1)
            panel.close()
        panel.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "panels-client"]


def test_script_that_cannot_connect_leaves_no_thread() -> None:
    with pytest.raises(TimeoutError), connect("ws://127.0.0.1:1", panel="p", timeout=0.05, options=FAST):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "panels-client"]
