"""The shell against a scripted server on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from panels_client import (
    DELETED,
    CallError,
    CallTimeoutError,
    ClosedError,
    Event,
    EventsLostError,
    Options,
    Panel,
    connect,
)
from panels_client.connection import Token
from tests.clients.python.scripted import Json, Peer, Scripted, scripted
from tests.support.resume_runner import load

FAST = Options(backoff_initial_s=0.01, backoff_max_s=0.05, proxy=None)


@contextlib.asynccontextmanager
async def joined(
    state: Json | None = None, *, token: Token = None, options: Options = FAST, seq: int = 0
) -> AsyncIterator[tuple[Scripted, Peer, Panel]]:
    async with scripted() as server:
        entering = asyncio.ensure_future(enter(server, token, options))
        peer = await server.peer()
        await peer.greet(state or {}, seq=seq)
        panel, leave = await entering
        try:
            yield server, peer, panel
        finally:
            await leave()


async def enter(
    server: Scripted, token: Token, options: Options
) -> tuple[Panel, Callable[[], Awaitable[None]]]:
    stack = contextlib.AsyncExitStack()
    panel = await stack.enter_async_context(connect(server.url, panel="p q", token=token, options=options))
    return panel, stack.aclose


async def until(look: Callable[[], bool]) -> None:
    while not look():  # noqa: ASYNC110 - what is looked at has no event of its own
        await asyncio.sleep(0)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that is a coroutine, and leaves no task behind."""

    def runs() -> None:
        async def whole() -> None:
            async with asyncio.timeout(20):
                await test()
            rest = {task.get_coro().__qualname__ for task in asyncio.all_tasks()} - {whole.__qualname__}  # type: ignore[union-attr]
            assert not {name for name in rest if name.startswith("Panel.")}

        asyncio.run(whole())

    runs.__name__ = test.__name__
    return runs


def patch(seq: int, **values: Any) -> Json:
    mutations = [{"op": "set", "key": key, "value": value} for key, value in values.items()]
    return {"type": "PATCH", "mutations": mutations, "seq": seq}


def event(seq: int, name: str, payload: Any = None) -> Json:
    return {"type": "EVENT", "event": {"name": name, "payload": payload, "timestamp": 1}, "seq": seq}


@run
async def test_state_is_live_and_callbacks_see_it_whole() -> None:
    async with joined({"n": 1, "m": 1}) as (_, peer, panel):
        seen: list[Any] = []
        panel.subscribe("n", lambda value, before: seen.append((value, before, panel.seq, panel.state["n"])))
        stop = panel.subscribe(lambda state: state["n"] + state["m"], lambda value, _: seen.append(value))
        await peer.say(patch(1, n=2))
        await until(lambda: len(seen) == 2)
        stop()
        await peer.say(patch(2, n=3), patch(3, other=1))
        await until(lambda: panel.seq == 3)
        assert seen == [(2, 1, 1, 2), 3, (3, 2, 2, 3)]
        assert "/panels/p%20q/ws" in peer.path
        with pytest.raises(TypeError):
            panel.state["n"] = 4  # type: ignore[index]


@run
async def test_callbacks_that_raise_harm_nobody() -> None:
    async with joined({"n": 1}) as (_, peer, panel):
        seen: list[Any] = []

        def bad(*_: object) -> None:
            raise RuntimeError("boom")

        panel.subscribe("n", bad)
        selecting = iter([None])
        panel.subscribe(lambda _: next(selecting), seen.append)  # type: ignore[arg-type]
        panel.on("e", bad)
        panel.on("e", seen.append)
        panel.on_notice(bad)
        panel.on_status(bad)
        await peer.say(patch(1, n=2), event(2, "e"), event(3, "f"))
        await until(lambda: panel.seq == 3)
        assert [each.name for each in seen] == ["e"]
        assert panel.status == "live"
        assert sum(entry.what == "callback raised" for entry in panel.log) == 3


@run
async def test_coroutine_function_is_no_callback() -> None:
    async with joined() as (_, _peer, panel):

        async def wrong(_: Event) -> None:
            raise AssertionError

        with pytest.raises(TypeError, match="plain function"):
            panel.on("e", wrong)


@run
async def test_call_survives_cuts_and_settles_once() -> None:
    async with joined({"n": 0}) as (server, peer, panel):
        notices: list[str] = []
        panel.on_notice(lambda notice: notices.append(notice.kind))
        calling = asyncio.ensure_future(panel.call("add", {"by": 1}, optimistic={"n": 1, "gone": DELETED}))
        first = await peer.hear()
        assert (panel.state["n"], len(panel.pending)) == (1, 1)
        peer.cut()
        again = await server.peer()
        assert again.path.endswith("?epoch=e&since=0")
        await again.greet(seq=1)
        await again.say(patch(1, n=1))
        assert await again.hear() == first
        await again.answer(first, "done", seq=1)
        result = await calling
        assert (result.value, result.seq, panel.pending) == ("done", 1, ())
        assert notices == ["recovered"]


@run
async def test_errors_and_timeouts_reach_the_caller_and_nobody_else() -> None:
    async with joined() as (_, peer, panel):
        calling = asyncio.ensure_future(panel.call("a"))
        request = await peer.hear()
        await peer.say(
            {"type": "ERROR", "requestId": request["requestId"], "code": "FORBIDDEN", "message": "m"}
        )
        with pytest.raises(CallError, match="FORBIDDEN"):
            await calling
        with pytest.raises(CallTimeoutError):
            await panel.call("b", timeout=0.01)
        assert panel.status == "live"


@run
async def test_cancelled_call_is_forgotten() -> None:
    async with joined({"n": 0}) as (_, peer, panel):
        calling = asyncio.ensure_future(panel.call("a", optimistic=lambda state: {"n": state["n"] + 1}))
        await peer.hear()
        assert panel.state["n"] == 1
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert (panel.state["n"], panel.pending) == (0, ())


@run
async def test_expectation_that_is_none_is_refused_before_anything_happens() -> None:
    async with joined({"n": 0}) as (_, _peer, panel):

        def wrong(_: object) -> Json:
            raise RuntimeError("boom")

        with pytest.raises(RuntimeError):
            await panel.call("a", optimistic=wrong)
        with pytest.raises(TypeError):
            await panel.call("a", optimistic=5)  # type: ignore[arg-type]
        assert (panel.pending, dict(panel.state)) == ((), {"n": 0})


@run
async def test_token_that_no_header_can_hold_is_a_provider_that_failed() -> None:
    given = iter(["a\nb", "\ud800", "good"])

    async def provider() -> str:
        return next(given)

    async with joined(token=provider) as (server, _, panel):
        assert server.tokens == ["Bearer good"]
        assert sum(entry.what == "token provider failed" for entry in panel.log) == 2
    with pytest.raises(ValueError, match="printable ASCII"):
        async with connect("ws://127.0.0.1:1", panel="p", token="a\nb", options=FAST):
            pass


@run
async def test_progress_and_answer() -> None:
    async with joined() as (_, peer, panel):
        heard: list[str] = []
        calling = asyncio.ensure_future(
            panel.call("a", on_progress=lambda told: heard.append(told.suspension_id))
        )
        request = await peer.hear()
        await peer.say({"type": "PROGRESS", "requestId": request["requestId"], "suspensionId": "s"})
        await until(lambda: heard == ["s"])
        answering = asyncio.ensure_future(panel.answer("s", True, call=1))
        answer = await peer.hear()
        assert (answer["type"], answer["call"], answer["value"]) == ("ANSWER", 1, True)
        await peer.say({"type": "ANSWERED", "requestId": answer["requestId"], "suspensionId": "s"})
        await answering
        await peer.answer(request)
        await calling


@run
async def test_events_are_bounded_and_end_with_the_client() -> None:
    async with joined() as (_, peer, panel):
        few, all_of_them = panel.events("e", limit=2), panel.events()
        await peer.say(*(event(seq, "e", seq) for seq in range(1, 5)))
        await until(lambda: panel.seq == 4)
        assert [(await anext(few)).payload, (await anext(few)).payload] == [1, 2]
        with pytest.raises(EventsLostError):
            await anext(few)
        await panel.close()
        assert [each.payload async for each in all_of_them] == [1, 2, 3, 4]
        assert [each async for each in panel.events()] == []


@run
async def test_call_after_close_and_calls_that_wait_then_raise() -> None:
    async with joined() as (_, peer, panel):
        calling = asyncio.ensure_future(panel.call("a"))
        await peer.hear()
        await panel.close()
        with pytest.raises(ClosedError):
            await calling
        with pytest.raises(ClosedError):
            await panel.call("b")
        await panel.close()
        assert panel.status == "closed"


@run
async def test_deleted_panel_ends_the_client() -> None:
    async with joined() as (_, peer, panel):
        calling = asyncio.ensure_future(panel.call("a"))
        await peer.hear()
        await peer.close(4404)
        with pytest.raises(ClosedError, match="panel_deleted"):
            await calling


@run
async def test_refused_upgrade_ends_or_is_tried_again() -> None:
    async with scripted() as server:
        server.refusals = [403]
        with pytest.raises(ClosedError, match="forbidden"):
            await enter(server, None, FAST)
        server.refusals = [503, 429]
        entering = asyncio.ensure_future(enter(server, "fixed", FAST))
        await (await server.peer()).greet({})
        _, leave = await entering
        await leave()
        assert server.tokens == ["", *["Bearer fixed"] * 3]


@run
async def test_token_provider_is_asked_anew_after_a_refusal_and_may_fail() -> None:
    given = iter(["old", RuntimeError("down"), 7, "new"])

    async def provider() -> str:
        each = next(given)
        if isinstance(each, Exception):
            raise each
        return each  # type: ignore[return-value]

    async with scripted() as server:
        server.refusals = [401]
        entering = asyncio.ensure_future(enter(server, provider, FAST))
        await (await server.peer()).greet({})
        panel, leave = await entering
        assert server.tokens == ["Bearer old", "Bearer new"]
        assert sum(entry.what == "token provider failed" for entry in panel.log) == 2
        await leave()


@run
async def test_token_provider_that_hangs_does_not_hold_up_the_end() -> None:
    async def provider() -> str:
        await asyncio.Event().wait()
        return ""

    async with scripted() as server:
        with pytest.raises(TimeoutError):
            async with connect(server.url, panel="p", token=provider, timeout=0.05, options=FAST):
                pass


@run
async def test_expiring_token_is_refreshed_on_the_connection() -> None:
    given = iter(["one", "two"])

    async def provider() -> str:
        return next(given)

    async with joined(token=provider) as (_, peer, _panel):
        await peer.say({"type": "TOKEN_EXPIRING", "expiresAt": 1})
        refresh = await peer.hear()
        assert (refresh["type"], refresh["token"]) == ("REFRESH", "two")


@run
async def test_socket_that_is_open_and_dead_is_given_up() -> None:
    silent = Options(backoff_initial_s=0.01, ping_after_s=0.02, pong_timeout_s=0.02, proxy=None)
    async with joined(options=silent) as (server, _peer, panel):
        again = await server.peer()
        await again.greet()
        await until(lambda: any(entry.what == "recovered" for entry in panel.log))
        assert any(entry.detail == "no answer to PING" for entry in panel.log)


@run
async def test_frame_that_is_too_large_costs_the_connection_and_not_the_client() -> None:
    small = Options(backoff_initial_s=0.01, max_received_bytes=1_000, proxy=None)
    async with joined({"n": 1}, options=small) as (server, peer, panel):
        await peer.say(patch(1, n="x" * 2_000))
        again = await server.peer()
        assert again.path.endswith("?epoch=e&since=none")
        await again.greet({"n": 2}, seq=1)
        await until(lambda: panel.state["n"] == 2)


@run
async def test_server_that_is_away_is_waited_for_within_the_timeout() -> None:
    with pytest.raises(TimeoutError):
        async with connect("http://127.0.0.1:1/", panel="p", timeout=0.05, options=FAST):
            pass
    with pytest.raises(ValueError, match="expected a URL"):
        async with connect("ftp://x", panel="p"):
            pass


def test_topics_are_named_again_and_escaped() -> None:
    async def whole() -> None:
        async with scripted() as server:
            opening = connect(server.url, panel="p", topics=["state:a,b", "events"], options=FAST)
            entering = asyncio.ensure_future(opening.__aenter__())
            peer = await server.peer()
            await peer.greet({})
            await entering
            assert peer.path.endswith("?topics=state%3Aa%2Cb,events")
            peer.cut()
            assert (await server.peer()).path.endswith("?epoch=e&since=0&topics=state%3Aa%2Cb,events")
            await opening.__aexit__(None, None, None)

    asyncio.run(whole())


@pytest.mark.parametrize("vector", load(), ids=lambda vector: vector["name"])
def test_client_ends_as_the_vector_says(vector: Json) -> None:
    """The vector's story on a socket: what the client had, the cut, what it asks for and what it is sent."""

    async def whole() -> None:
        had, sent = vector["had"], vector["sent"]
        async with joined(had["state"], seq=had["seq"]) as (server, peer, panel):
            events: list[list[Any]] = []
            panel.on("*", lambda each: events.append([each.seq, each.name, each.payload]))
            await peer.say(*had["heard"])
            await peer.say({"type": "barrier"})
            await until(lambda: any(entry.detail == "barrier" for entry in panel.log))
            lies = vector["asks"]["since"] == "none"
            if lies:
                await peer.say({"type": "PATCH"})
            else:
                peer.cut()
            again = await server.peer()
            assert f"since={vector['asks']['since']}" in again.path
            last = 10**6 if sent["seq"] == "last" else sent["seq"]
            same = vector["asks"]["epoch"] == "current"
            await again.greet(sent.get("state"), seq=last, epoch="e" if same else "f")
            await again.say(*sent["messages"], *vector.get("then", {}).get("messages", []), {"type": "end"})
            await until(lambda: any(entry.detail == "end" for entry in panel.log))
            ends = vector["ends"]
            assert dict(panel.state) == ends["state"]
            assert events == ends["events"]
            assert panel.seq == (last if ends["seq"] == "last" else ends["seq"])

    asyncio.run(whole())
