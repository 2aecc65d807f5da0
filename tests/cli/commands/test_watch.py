"""`panels watch` against a gateway; what survives its end is in tests/integration/test_cli.py."""

from __future__ import annotations

import json
import threading

from tests.cli.conftest import ISSUER, Terminal


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


def _call_when_watched(url: str) -> None:
    import httpx

    from tests.support.system import eventually

    with httpx.Client(
        base_url=url, headers={"authorization": f"Bearer {ISSUER.mint()}"}, trust_env=False
    ) as http:
        eventually(lambda: http.get("/panels/p").json()["clients"] == 1)
        http.post("/panels/p/trigger/do", json={"args": {"set": {"n": 2}, "emit": {"seen": {"a": 1}}}})
