"""The vectors of resuming: a gateway passes them, a server that is wrong does not, and they are what their
scenarios say.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from tests.integration.conftest import MakeSystem
from tests.support.fake_resume_server import Fault, serving
from tests.support.resume_client import GapError, ProtocolError, ResumingClient
from tests.support.resume_runner import (
    FOLDER,
    Json,
    VectorError,
    Verdict,
    check_end,
    client_of,
    load,
    run_all,
    take,
)
from tests.support.resume_scenarios import scenarios, text

HISTORY_COMMITS = 10


def failed(verdicts: Sequence[Verdict]) -> dict[str, str]:
    return {verdict.name: verdict.problem for verdict in verdicts if verdict.problem and not verdict.skipped}


def resumed(vector: Json) -> ResumingClient:
    """A client that hears exactly what the vector says that it must be sent."""
    client, sent = client_of(vector), vector["sent"]
    greeting = {"type": "CONNECTED", **sent}
    if sent["seq"] == "last":
        greeting["seq"] = 99
    take(client, greeting, [*sent["messages"], *vector.get("then", {"messages": []})["messages"]])
    return client


def test_files_are_what_the_scenarios_say() -> None:
    written = {path.stem: path.read_text() for path in FOLDER.glob("*.json")}
    assert written == {scenario["name"]: text(scenario) for scenario in scenarios()}
    assert len(written) >= 25


@pytest.mark.parametrize("vector", load(), ids=lambda vector: vector["name"])
def test_client_that_is_sent_what_a_vector_says_ends_as_it_says(vector: Json) -> None:
    check_end(resumed(vector), vector["ends"], last=99)


@pytest.mark.parametrize(
    "vector",
    [vector for vector in load() if len({message["seq"] for message in vector["sent"]["messages"]}) >= 2],
    ids=lambda vector: vector["name"],
)
def test_client_notices_when_the_first_of_two_missed_commits_is_lost(vector: Json) -> None:
    sent = vector["sent"]
    lost = min(message["seq"] for message in sent["messages"])
    cut = {**vector, "sent": {**sent, "messages": [m for m in sent["messages"] if m["seq"] != lost]}}
    with pytest.raises(GapError):
        resumed(cut)


def test_client_refuses_a_version_that_it_has() -> None:
    client = ResumingClient(position=3, state={})
    with pytest.raises(ProtocolError):
        client.hear({"type": "PATCH", "seq": 3, "mutations": []})


@pytest.mark.timeout(180)
def test_gateway_passes_all_vectors(make_system: MakeSystem) -> None:
    system = make_system(gateway=["--history-commits", str(HISTORY_COMMITS)])
    verdicts = list(run_all(system.url, load(), token=system.token(), history_commits=HISTORY_COMMITS))
    assert failed(verdicts) == {}
    assert [verdict.name for verdict in verdicts if verdict.skipped] == []
    assert system.defects() == []


#: A vector or two that each fault must fail.
FOUND_BY = {
    Fault.HOLE: ("plain", "cut-after-5"),
    Fault.REPEATS: ("plain", "merged"),
    Fault.ANY_EPOCH: ("other-epoch", "no-epoch", "recreated-and-ahead"),
    Fault.TRUSTS_SINCE: ("since-ahead",),
    Fault.NO_MORE: ("partial-unit", "cut-after-1"),
    Fault.NO_PREVIOUS: ("filtered-one-key", "filtered-then-live", "revert-filtered"),
    Fault.DEAF: ("filtered-prefix", "topics-changed", "topics-none"),
    Fault.NO_EVENTS: ("events-only", "events-are-not-folded"),
    Fault.SILENT: ("since-none", "state-smaller"),
    Fault.STALE: ("since-none", "other-epoch"),
    Fault.FORGETS: ("live-after-recovery", "nothing-missed"),
    Fault.ENDLESS: ("state-smaller",),
}


async def _verdicts_on(fault: Fault, names: Sequence[str] = ()) -> list[Verdict]:
    async with serving(fault) as url:
        return await asyncio.to_thread(lambda: list(run_all(url, load(names))))


def test_server_written_from_the_document_passes() -> None:
    verdicts = asyncio.run(_verdicts_on(Fault.NOTHING))
    assert failed(verdicts) == {}
    assert [verdict.name for verdict in verdicts if verdict.skipped] == ["since-behind-retention"]


@pytest.mark.parametrize("fault", FOUND_BY, ids=lambda fault: fault.name)
def test_server_that_is_wrong_fails(fault: Fault) -> None:
    names = FOUND_BY[fault]
    assert failed(asyncio.run(_verdicts_on(fault, names))).keys() == set(names)


def test_every_fault_is_found() -> None:
    assert {Fault.NOTHING, *FOUND_BY} == set(Fault)


def test_vector_whose_since_is_not_the_clients_position_is_refused() -> None:
    vector = json.loads((FOLDER / "plain.json").read_text())
    vector["asks"]["since"] = 2
    with pytest.raises(VectorError, match="since"):
        client_of(vector)
