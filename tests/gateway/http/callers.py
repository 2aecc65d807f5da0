"""HTTP clients of a gateway in the same process, and what they send and expect."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import httpx
import jwt

from panels_gateway.access.keys import load_keyring
from panels_gateway.access.tokens import TokenRules, TokenVerifier
from panels_gateway.app import create_app
from panels_gateway.configuration.config import load
from panels_gateway.observe.counters import BrokerCounters
from panels_shared.errors import CODES, Code
from tests.support.gateway import Gateway

SECRET: Final = "s" * 32
COUNTER: Final[dict[str, Any]] = {
    "kind": "counter",
    "initialState": {"n": 0},
    "tools": [{"name": "inc", "handler": "$state.n++"}],
}


def make_client(gateway: Gateway, *flags: str, secret_file: Path | None = None) -> httpx.AsyncClient:
    """A client, of a gateway that wants tokens where there is a secret."""
    verifier = None
    auth = ["--no-auth", "--allowed-hosts=*"]
    if secret_file is not None:
        secret_file.write_text(SECRET)
        verifier = TokenVerifier(load_keyring(secret_file, None, ()), TokenRules(), clock=time.time)
        auth = ["--jwt-secret-file", str(secret_file)]
    config = load([*auth, *flags], {}, directory=Path("/nowhere"))
    app = create_app(gateway.kernel, config, verifier, bus=BrokerCounters(), port=3001)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)  # type: ignore[arg-type, unused-ignore]
    return httpx.AsyncClient(transport=transport, base_url="http://gateway:3001")


def make_token(**claims: Any) -> str:
    """A token that is valid for a minute."""
    return jwt.encode({"exp": time.time() + 60, **claims}, SECRET, algorithm="HS256")


def bearer(**claims: Any) -> dict[str, str]:
    """The header with such a token."""
    return {"authorization": f"Bearer {make_token(**claims)}"}


def grant(panel_id: str, *allow: str, **claims: Any) -> dict[str, str]:
    """The header with a token that allows this on a panel."""
    return bearer(panels=[{"id": panel_id, "allow": list(allow)}], **claims)


def assert_error(response: httpx.Response, code: Code) -> dict[str, Any]:
    """Checks the one form of everything that is not success; its details."""
    assert response.status_code == CODES[code].http_status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert body["error"]["code"] == code.value
    assert body["error"]["message"]
    details: dict[str, Any] = body["error"].get("details", {})
    return details
