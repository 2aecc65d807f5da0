"""The corpus of golden images: suspended handlers that builds of the past have left, as a journal would hold
them.

``python -m tests.workers.javascript.goldens`` writes those of the present build; the older ones stay. A name
is ``<handler>-<build>.image``, where the build is the beginning of its digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from panels_shared.handlers import handler_digest
from panels_shared.messages import Answered
from panels_shared.outcome import Suspended
from panels_worker.javascript.engines import PREVIOUS, carried, compile_engine
from panels_worker.javascript.guest import JavaScriptGuest
from panels_worker.javascript.program import JavaScriptProgram
from panels_worker.javascript.suspension import identity_of
from tests.workers.builders import ENGINE, make_task
from tests.workers.javascript.scripts import guest, program
from tests.workers.javascript.suspensions import MAY_CALL, bad, good

FOLDER = Path(__file__).with_name("golden")
BUILD_CHARS = 16


@dataclass(frozen=True)
class Golden:
    """A handler, the answers that it gets before and after it is put away, and what it returns then."""

    source: str
    before: tuple[tuple[Answered, ...], ...]
    after: tuple[Answered, ...]
    returns: Any

    def load(self) -> JavaScriptProgram:
        """The handler as a sandbox has it."""
        script = program(self.source)._script
        digest = handler_digest("javascript", "", self.source.encode())
        return JavaScriptProgram(guest(), script, digest, previous_guest)


@cache
def previous_guest() -> JavaScriptGuest | None:
    """The guest of the release before, where one is carried."""
    if PREVIOUS not in carried():
        return None
    return JavaScriptGuest.load(ENGINE, compile_engine(PREVIOUS, ENGINE), PREVIOUS)


GOLDENS = {
    "get": Golden(
        'const r = await $ext.http.get("https://example.org/a?b=1", { headers: { accept: "text/plain" } });\n'
        "$state.status = r.status; return [r.status, r.data, $args];",
        (),
        (good(1, {"status": 200, "data": "x"}),),
        [200, "x", {"by": 1}],
    ),
    "all": Golden(
        "return await Promise.all([$ext.time.sleep(1), $ext.http.get('u'), $ext.human.approve('refund?')]"
        ".map((p) => p.catch((e) => `${e.code}: ${e.message}`)))",
        ((good(2, {"status": 204}),), (bad(1, "timeout", "late"),)),
        (good(3, True),),
        ["timeout: late", {"status": 204}, True],
    ),
    "race": Golden(
        "let n = 0; while (n < 3) n += await Promise.race([$ext.a.quick(n), $ext.a.slow(n)]); return n",
        ((good(1, 1),), (good(4, 1),)),
        (good(3, 7), good(5, 1)),
        3,
    ),
    "module": Golden(
        "class Cart { #items = []; add(i) { this.#items.push(i); return this } get sum() {"
        " return this.#items.reduce((a, b) => a + b, 0) } }\n"
        "const names = new Map([['a', /^x+$/u], ['b', 10n]]);\n"
        "export default async ({ by }) => { const cart = new Cart();\n"
        "  for await (const v of (async function* () { for (let i = 0; i < 3; i++) yield await $ext.shop.price(i) })())"
        " cart.add(v);\n"
        "  return [cart.sum * by, names.get('a').test('xx'), String(names.get('b'))] }",
        ((good(1, 1.5),), (good(2, 2),)),
        (good(3, 3),),
        [6.5, True, "10"],
    ),
}


def make(golden: Golden) -> bytes:
    """The image that this build makes."""
    handler = golden.load()
    outcome = handler.run(make_task(capabilities=MAY_CALL, args=b'{"by":1}')).outcome
    for answers in golden.before:
        assert isinstance(outcome, Suspended), outcome
        outcome = handler.resume(make_task(capabilities=MAY_CALL), outcome.image, answers).outcome
    assert isinstance(outcome, Suspended), outcome
    return outcome.image


def build() -> str:
    """The present build, as it stands in names."""
    return identity_of(guest(), b"").build.hex()[:BUILD_CHARS]


def builds() -> set[str]:
    """All builds that are carried."""
    previous = previous_guest()
    older = set() if previous is None else {identity_of(previous, b"").build.hex()[:BUILD_CHARS]}
    return {build(), *older}


def main() -> None:
    """Writes the images of the present build."""
    for name, golden in GOLDENS.items():
        path = FOLDER / f"{name}-{build()}.image"
        path.write_bytes(make(golden))
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
