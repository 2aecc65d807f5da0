"""A client's token: renewed, refused, and at its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from panels_gateway.access.credentials import OriginPolicy
from panels_gateway.access.gate import Gate
from panels_gateway.access.hosts import HostPolicy
from panels_gateway.access.keys import load_keyring
from panels_gateway.access.tokens import TokenRules, TokenVerifier
from panels_gateway.clients.connection import Connection
from panels_gateway.clients.session import Session, SessionRules
from panels_shared.errors import CloseCode
from tests.gateway.clients.test_lifetime import Handle, Loop
from tests.support.gateway import Gateway, Socket

pytestmark = pytest.mark.anyio

SECRET = "s" * 32
NOW = 1_000_000.0


class Visit:
    """A client of panel ``p`` who came with a token, and the clocks of its gateway."""

    def __init__(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text(SECRET)
        self.loop = Loop(NOW)
        self.gateway = Gateway()
        keys = load_keyring(secret, None, ())
        verifier = TokenVerifier(keys, TokenRules(), clock=lambda: self.loop.wall_s)
        origins = OriginPolicy(None, own=())
        self.gate = Gate(verifier, HostPolicy(None), origins, conceals=False)
        self.connection: Connection
        self.socket: Socket
        self.session: Session

    async def begin(self, **claims: Any) -> None:
        """The client connects."""
        resident = await self.gateway.add("p")
        principal = self.gate.verify(token(**claims), "")
        self.connection, self.socket = self.gateway.connect(resident, principal=principal)
        rules = SessionRules(
            gate=self.gate,
            warning_s=60.0,
            clock=lambda: self.loop.wall_s,
            monotonic=lambda: self.loop.now_s,
        )
        self.session = Session(self.connection, rules, address="", call_later=self._call_later)
        self.connection.session = self.session
        self.session.start()
        await self.gateway.settle()

    def _call_later(self, delay_s: float, action: Callable[[], None]) -> Handle:
        return self.loop.call_later(delay_s, action)

    async def say(self, **message: Any) -> dict[str, Any]:
        """The client sends a message; what it hears last then."""
        self.connection.receive_text(json.dumps(message))
        await self.gateway.settle()
        return self.socket.heard[-1]

    async def pass_by(self, seconds: float) -> None:
        """Time goes by."""
        self.loop.run(seconds)
        await self.gateway.settle()


def token(secret: str = SECRET, **claims: Any) -> str:
    return jwt.encode({"exp": NOW + 600, "sub": "ann", **claims}, secret, algorithm="HS256")


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    return Visit(tmp_path)


async def test_client_is_warned_and_then_closed(visit: Visit) -> None:
    await visit.begin()
    await visit.pass_by(545)
    assert visit.socket.heard[-1] == {"type": "TOKEN_EXPIRING", "expiresAt": NOW + 600}
    await visit.pass_by(54.9)
    assert not visit.socket.is_closed
    await visit.pass_by(0.2)
    assert visit.socket.closed == (CloseCode.TOKEN_EXPIRED, "the token has expired")


async def test_client_whose_token_expired_can_do_nothing_until_its_socket_is_gone(visit: Visit) -> None:
    await visit.begin()
    visit.loop.run(600)
    visit.connection.receive_text('{"type": "TRIGGER", "tool": "t"}')
    await visit.gateway.settle()
    assert visit.socket.heard[-1]["code"] == "FORBIDDEN"
    assert visit.gateway.jobs == []


async def test_refresh_lets_the_client_go_on(visit: Visit) -> None:
    await visit.begin()
    answer = await visit.say(type="REFRESH", token=token(exp=NOW + 2_000), requestId="r")
    assert answer == {"type": "REFRESHED", "requestId": "r", "expiresAt": NOW + 2_000}
    await visit.pass_by(1_900)
    assert not visit.socket.is_closed
    assert visit.socket.words.count("TOKEN_EXPIRING") == 0
    await visit.pass_by(100)
    assert visit.socket.words.count("TOKEN_EXPIRING") == 1
    assert visit.socket.is_closed


async def test_refresh_changes_what_the_client_may_do(visit: Visit) -> None:
    await visit.begin()
    assert (await visit.say(type="TRIGGER", tool="t"))["type"] == "RESULT"
    await visit.pass_by(2)
    await visit.say(type="REFRESH", token=token(panels=[{"id": "p", "allow": ["read", "trigger:u"]}]))
    assert (await visit.say(type="TRIGGER", tool="t"))["code"] == "FORBIDDEN"
    assert (await visit.say(type="TRIGGER", tool="u"))["type"] == "RESULT"


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (lambda: token("x" * 32), "UNAUTHORIZED"),
        (lambda: "nonsense", "UNAUTHORIZED"),
        (lambda: token(exp=NOW - 1), "UNAUTHORIZED"),
        (lambda: token(sub="bob"), "FORBIDDEN"),
        (lambda: jwt.encode({"exp": NOW + 600}, SECRET, algorithm="HS256"), "FORBIDDEN"),
        (lambda: token(panels=[{"id": "q", "allow": ["read"]}]), "FORBIDDEN"),
        (lambda: token(panels=[{"id": "p", "allow": ["trigger:*"]}]), "FORBIDDEN"),
        (lambda: "x" * 9_000, "PARSE_ERROR"),
        (lambda: 1, "PARSE_ERROR"),
    ],
)
async def test_refused_refresh_leaves_the_client_with_its_token(
    visit: Visit, made: Callable[[], Any], code: str
) -> None:
    await visit.begin()
    answer = await visit.say(type="REFRESH", token=made(), requestId="r")
    assert (answer["type"], answer["code"], answer["requestId"]) == ("ERROR", code, "r")
    assert (await visit.say(type="TRIGGER", tool="t"))["type"] == "RESULT"
    await visit.pass_by(599)
    assert not visit.socket.is_closed
    await visit.pass_by(1)
    assert visit.socket.is_closed


async def test_refresh_is_bounded_in_rate(visit: Visit) -> None:
    await visit.begin()
    assert (await visit.say(type="REFRESH", token="nonsense"))["code"] == "UNAUTHORIZED"
    answer = await visit.say(type="REFRESH", token=token(exp=NOW + 2_000), requestId="r")
    assert (answer["code"], answer["retryAfterMs"], answer["requestId"]) == ("RATE_LIMITED", 1_000, "r")
    await visit.pass_by(1)
    assert (await visit.say(type="REFRESH", token=token(exp=NOW + 2_000)))["type"] == "REFRESHED"


async def test_lost_client_leaves_no_timer(visit: Visit) -> None:
    await visit.begin()
    visit.session.stop()
    assert visit.loop.armed == 0


async def test_client_that_left_before_its_state_was_there_leaves_no_timer(visit: Visit) -> None:
    await visit.begin()
    visit.session.stop()
    visit.connection.lost()
    visit.session.start()
    assert visit.loop.armed == 0
