"""`panels watch` against a gateway; what survives its end is in tests/integration/test_cli.py."""

from __future__ import annotations

import json
import threading

import httpx
import pytest
from websockets.sync.server import ServerConnection, serve

from tests.cli.conftest import ISSUER, Terminal
from tests.support.system import eventually


def test_state_and_changes_are_shown(panels: Terminal, panel: str, url: str) -> None:
    caller = threading.Thread(target=_call_when_watched, args=(url,))
    caller.start()
    seen = panels("watch", panel, "--count", "2")
    caller.join()
    assert seen.code == 0
    assert seen.out.splitlines() == [
        "● connected, version 0",
        "  + n 1",
        "1",
        "  ~ n 1 → 2",
        '1 ! seen {"a":1}',
    ]


def test_topics_choose_and_json_is_the_messages(panels: Terminal, panel: str, url: str) -> None:
    caller = threading.Thread(target=_call_when_watched, args=(url,))
    caller.start()
    seen = panels("watch", panel, "--count", "1", "--topic", "event:s*", "--json")
    caller.join()
    assert [json.loads(line)["type"] for line in seen.out.splitlines()] == ["CONNECTED", "EVENT"]


def test_refusal_and_silence_end_it(panels: Terminal, url: str) -> None:
    missing = panels("watch", "nope")
    assert missing.code == 1
    assert "(PANEL_NOT_FOUND)" in missing.err
    nobody = panels("--url", "http://127.0.0.1:1", "watch", "p")
    assert nobody.code == 3
    assert nobody.err.count("\n") == 1


def test_deleted_panel_ends_it(panels: Terminal, panel: str, url: str) -> None:
    deleter = threading.Thread(target=_call_when_watched, args=(url, "DELETE", "/panels/p"))
    deleter.start()
    seen = panels("watch", panel)
    deleter.join()
    assert seen.code == 1
    assert "the panel was deleted" in seen.err


@pytest.mark.parametrize("json_wanted", [False, True])
def test_gap_is_told_and_everything_loaded_anew(
    panels: Terminal, monkeypatch: pytest.MonkeyPatch, json_wanted: bool
) -> None:
    monkeypatch.setattr("panels_cli.watching.FIRST_WAIT_S", 0.0)
    asked: list[str] = []

    def serve_one(socket: ServerConnection) -> None:
        assert socket.request is not None
        asked.append(socket.request.path.partition("?")[2])
        socket.send('{"type":"CONNECTED","panelId":"p","seq":1,"epoch":"e","state":{"n":1}}')
        socket.send('{"type":"PATCH","seq":9,"mutations":[]}' if len(asked) == 1 else "{broken")

    with serve(serve_one, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        seen = panels("--url", f"http://127.0.0.1:{port}", "watch", "p", *(["--json"] if json_wanted else []))
        server.shutdown()
        thread.join()
    assert asked == ["", "epoch=e&since=none"]
    assert ('"type":"LOST"' if json_wanted else "● something is missing") in seen.out
    assert seen.code == 3
    assert "broken JSON" in seen.err


def _call_when_watched(url: str, method: str = "POST", path: str = "/panels/p/trigger/do") -> None:
    with httpx.Client(
        base_url=url, headers={"authorization": f"Bearer {ISSUER.mint()}"}, trust_env=False
    ) as http:
        eventually(lambda: http.get("/panels/p").json()["clients"] == 1)
        http.request(method, path, json={"args": {"set": {"n": 2}, "emit": {"seen": {"a": 1}}}})
