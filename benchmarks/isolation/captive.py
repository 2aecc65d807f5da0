"""Lets an attacker's snippets run inside sandboxes of the running system: welcomed, connected, confined.

A pool of its own is started beside the honest one, whose sandbox ``tests.support.backdoor`` has taken over.
It has a label, so that nobody's jobs come to it but those of a panel that was made for it: what it gets of
anybody else's, it got by force.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import httpx

from benchmarks.isolation.corpus.compromised import CUT_OFF, KILLED, NOTHING, Snippet, Tried, jailed, word_of
from tests.integration.guests import counter
from tests.support.backdoor import TakenOver, start_taken_over_pool
from tests.support.backdoored_sandbox import ENDED
from tests.support.system import System, eventually

#: The label of the pool, and of the panel that is made for it.
LABEL: Final = "captured"
_INTRUDER: Final = Path(__file__).with_name("intruder.py")
#: How long the snippets of one process may take, and how often it is looked after them, in seconds.
_PATIENCE_S: Final = 90.0
_LOOK_S: Final = 0.02
_SANDBOX_ENDED: Final = re.compile(r"sandbox \d+ ended: (.*)")


def outcomes(system: System, snippets: Sequence[Snippet]) -> Iterator[Tried]:
    """What came of each snippet.

    A snippet that ends its process does so in one that is confined alike, which is started sooner than a
    pool. Those that go on run in a sandbox that was taken over, one after the other; those of the bus in one
    each.
    """
    left: list[Snippet] = []
    for snippet in snippets:
        if not snippet.bus:
            began_s = time.monotonic()
            word = jailed(snippet)
            if word == KILLED:
                yield Tried(snippet, word, (time.monotonic() - began_s) * 1e3)
            else:
                left.append(snippet)
    while left:
        done = _run(system, left)
        yield from done
        left = left[len(done) :]
    for snippet in snippets:
        if snippet.bus:
            before = _counted(system, snippet)
            (tried,) = _run(system, [snippet])
            noticed = tried.word in (NOTHING, KILLED) and _counted(system, snippet) > before
            yield replace(tried, word=CUT_OFF) if noticed else tried


def _run(system: System, snippets: Sequence[Snippet]) -> list[Tried]:
    """What came of the first of these, up to the one that ended its process: of one at least."""
    artifacts = _artifacts(system)
    attack = _INTRUDER.read_text(encoding="utf-8")
    pairs = [(snippet.name, snippet.source) for snippet in snippets]
    attack += f"\nSNIPPETS = {pairs!r}\nARTIFACT = {next(iter(artifacts))!r}\n"
    taken = start_taken_over_pool(system, attack, pool=("--labels", LABEL))
    try:
        problem = _give_job(taken) if any(snippet.job for snippet in snippets) else ""
        tried = _read(taken, snippets)
    finally:
        status = taken.pool.stop()
        system.pools.remove(taken.pool)
    if status:
        problem = f"the pool ended with {status}"
    elif {name: digest for name, digest in _artifacts(system).items() if name in artifacts} != artifacts:
        problem = "the cache was changed"
    if problem:
        tried[-1] = replace(tried[-1], word=problem)
    return tried


def _read(taken: TakenOver, snippets: Sequence[Snippet]) -> list[Tried]:
    """Waits for what an attack prints; the snippets that it got to, or the first."""
    began_s = time.monotonic()
    while True:
        ended = _SANDBOX_ENDED.search(taken.pool.text)
        printed = taken.printed()
        if ENDED in printed or ended or time.monotonic() > began_s + _PATIENCE_S or not taken.pool.running:
            break
        time.sleep(_LOOK_S)
    told = [json.loads(line) for line in printed if line.startswith("[")]
    found: list[Tried] = []
    for snippet in snippets:
        outcome = next((line[1:] for line in told if line[0] == snippet.name and len(line) == 3), None)
        if outcome is None:
            break
        found.append(Tried(snippet, word_of(0, outcome[0]), outcome[1]))
    if len(found) < len(snippets) and ([snippets[len(found)].name] in told or not found):
        how = ended[1] if ended else f"not run within {_PATIENCE_S:g} s"
        word = KILLED if "signal" in how else how
        found.append(Tried(snippets[len(found)], word, (time.monotonic() - began_s) * 1e3))
    return found


def _give_job(taken: TakenOver) -> str:
    """Triggers a panel of the attacker's pool once; what is wrong with what came of it."""
    system = taken.system
    # before that the process would take the job in itself, while it starts
    eventually(taken.printed, within_s=_PATIENCE_S, what="the attack to begin")
    panel = system.make_panel(counter(), state={"count": 0}, pool=LABEL)
    try:
        with system.connect(panel) as client:
            answer = client.trigger("count", timeout_s=_PATIENCE_S)
            if answer.final["type"] == "RESULT" and answer.value != 1:
                return f"expected the count 1, got {answer.value}"
        if (seq := system.seq(panel)) > 1 or system.state(panel)["count"] > 1:
            return f"one trigger made {seq} commits, and the count {system.state(panel)['count']}"
    finally:
        system.http.delete(f"/panels/{panel}")
    return ""


def _counted(system: System, snippet: Snippet) -> int:
    """How often the gateway has noticed what such a snippet does."""
    try:
        text = system.http.get("/metrics").text
    except httpx.HTTPError:
        return 0
    return sum(int(float(line.split()[1])) for line in text.splitlines() if line.startswith(snippet.counted))


def _artifacts(system: System) -> dict[str, str]:
    """The name of each file of the artifact cache, and a digest of what it holds."""
    folder = system.cache_dir
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(("new.", "key"))
    }
