"""Recorded triggers run again in real sandboxes, after the gateway and the worker that ran them are gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tests.integration.guests import ROOT
from tests.support.system import System

#: Everything that a handler could take a different path by.
DEPENDENT: Final = """
const {by} = $args;
$state.items = [...($state.items ?? []), {by, at: Date.now(), dice: Math.random(), who: $scope.sub}];
if ($state.items.length % 2) $emit("odd", {id: Math.random().toString(36), map: [...new Map([[by, 1]])]});
console.log("item", $state.items.length, new Date().toISOString());
return $state.items.length;
"""


def replay(system: System, panel: str, seq: int) -> dict[str, Any]:
    response = system.http.post(f"/panels/{panel}/replay", json={"seq": seq})
    assert response.status_code == 200, response.text
    shown: dict[str, Any] = response.json()
    return shown


def test_triggers_replay_bit_for_bit_in_other_processes(cache_dir: Path) -> None:
    with System(cache_dir=cache_dir, gateway=[]) as system:
        system.start(processes=1)
        counter = json.loads((ROOT / "examples" / "panels" / "counter.json").read_text()) | {"id": "wasm"}
        assert system.http.post("/panels", json=counter).status_code == 201
        tools = [{"name": "add", "handler": DEPENDENT}]
        body = {"id": "js", "kind": "test", "initialState": {}, "tools": tools}
        assert system.http.post("/panels", json=body).status_code == 201
        for number in range(4):
            for panel, tool in (("js", "add"), ("wasm", "increment")):
                answer = system.http.post(
                    f"/panels/{panel}/trigger/{tool}", json={"args": {"by": number + 1}}
                )
                assert answer.status_code == 200, answer.text
        before = {panel: system.state(panel) for panel in ("js", "wasm")}
        system.pool.stop()
        system.the_gateway().kill()
        system.start(processes=1)
        # the tool is another one today, and what ran then is kept
        body["tools"] = [{"name": "add", "handler": "return 0;"}]
        del body["initialState"]
        assert system.http.put("/panels/js", json=body).status_code == 200
        for panel in ("js", "wasm"):
            for seq in (4, 1, 2, 3):
                shown = replay(system, panel, seq)
                assert shown["equal"], shown
                assert shown["recorded"] == shown["replayed"]
                assert shown["recorded"]["fuelConsumed"] > 0
        assert replay(system, "js", 1)["replayed"]["log"]
        assert {panel: system.state(panel) for panel in ("js", "wasm")} == before
        assert [system.seq(panel) for panel in ("js", "wasm")] == [4, 4]
        assert not system.defects()
