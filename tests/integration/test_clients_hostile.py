"""Clients as attackers, against a real gateway: stolen tokens, names of others, strangers' addresses."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from tests.integration.conftest import MakeSystem
from tests.support.clients import refused_status
from tests.support.system import System

PANEL = {"id": "p", "kind": "test", "initialState": {"n": 1}}


def mint(system: System, **claims: Any) -> str:
    return jwt.encode(
        {"exp": time.time() + 600, "sub": "ann", **claims}, system.issuer.secret, algorithm="HS256"
    )


def admin(system: System) -> httpx.Client:
    return system.http_client(mint(system, sub="root", panels=[], panels_admin=True))


def is_refused(system: System, token: str) -> bool:
    with system.http_client(token) as client:
        return client.get("/panels/p").status_code == 401


def restore(system: System, backup: Path, into: Path) -> None:
    command = [sys.executable, "-m", "panels_gateway", "restore", str(backup), "--data-dir", str(into)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def test_revocation_survives_kill_9_and_is_in_the_backup(make_system: MakeSystem) -> None:
    system = make_system(processes=0)
    assert system.http.post("/panels", json=PANEL).status_code == 201
    stolen, good = mint(system, jti="t-1"), mint(system, jti="t-2")
    old = mint(system, sub="bob", iat=int(time.time()) - 10)
    with system.connect("p", token=stolen) as thief, system.connect("p", token=good) as ann:
        with admin(system) as root:
            assert root.post("/revocations", json={"jti": "t-1"}).status_code == 201
            body = {"sub": "bob", "before": int(time.time())}
            assert root.post("/revocations", json=body).status_code == 201
        assert thief.await_close()[0] == 4401
        ann.barrier()
    system.the_gateway().kill()
    system.start_gateway()
    for _ in range(2):
        assert is_refused(system, stolen)
        assert is_refused(system, old)
        assert not is_refused(system, good)
        assert not is_refused(system, mint(system, sub="bob", iat=int(time.time())))
        assert refused_status(lambda: system.connect("p", token=stolen))[0] == 401
        # what was folded meanwhile is what is read now
        assert system.the_gateway().stop() == 0
        system.start_gateway()
    data, backup = system.folder / "data", system.folder / "backup.db"
    command = [sys.executable, "-m", "panels_gateway", "backup", str(backup), "--data-dir", str(data)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert system.the_gateway().stop() == 0
    data.rename(system.folder / "lost")
    restore(system, backup, data)
    system.start_gateway()
    assert is_refused(system, stolen)
    assert not is_refused(system, good)


def test_revocation_cuts_a_refresh_too(make_system: MakeSystem) -> None:
    system = make_system(processes=0)
    assert system.http.post("/panels", json=PANEL).status_code == 201
    with system.connect("p", token=mint(system, jti="t-1")) as client, admin(system) as root:
        root.post("/revocations", json={"jti": "t-2"})
        client.send({"type": "REFRESH", "token": mint(system, jti="t-2")})
        assert client.receive_type("ERROR")["code"] == "UNAUTHORIZED"
        client.barrier()


@pytest.mark.parametrize("path", ["/panels/p/state", "/health", "/metrics"])
def test_page_elsewhere_does_not_reach_a_gateway_without_authentication(
    open_system: System, path: str
) -> None:
    answer = httpx.get(open_system.url + path, headers={"host": "evil.example"}, trust_env=False)
    assert answer.status_code == 403
    assert "evil.example" in answer.text
    assert "access-control-allow-origin" not in answer.headers
