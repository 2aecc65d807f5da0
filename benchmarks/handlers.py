"""Handlers that benchmarks run, the same work in several languages, and definitions of panels with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

#: Adds ``args.by`` (1) to ``state.count``, emits ``incremented``, returns the count.
COUNTER_WAT: Final = (Path(__file__).resolve().parents[1] / "examples" / "wat" / "increment.wat").read_text()

#: The same as a script.
COUNTER_JS: Final = """\
const by = $args?.by ?? 1;
$state.count = ($state.count ?? 0) + by;
$emit("incremented", $state.count);
return $state.count;
"""

#: Turns a loop four million times (some milliseconds) before it counts: what the CPU can
#: do is what limits it.
BUSY_WAT: Final = COUNTER_WAT.replace(
    "(local $size i32) (local $text i32)\n",
    """(local $size i32) (local $text i32) (local $turns i32)
    (local.set $turns (i32.const 4000000))
    (loop $turn
      (local.set $turns (i32.sub (local.get $turns) (i32.const 1)))
      (br_if $turn (local.get $turns)))
""",
)

Definition = Callable[[str], dict[str, Any]]


def counter(language: str, source: str, *, state_bytes: int = 0) -> Definition:
    """Panels whose tool ``increment`` is this handler; they begin with ``state(state_bytes)``."""

    def definition(panel_id: str) -> dict[str, Any]:
        return {
            "id": panel_id,
            "kind": "counter",
            "tools": [{"name": "increment", "handler": {"language": language, "source": source}}],
            "initialState": state(state_bytes),
        }

    return definition


WASM: Final = counter("wat", COUNTER_WAT)
JAVASCRIPT: Final = counter("javascript", COUNTER_JS)


def state(size_bytes: int) -> dict[str, Any]:
    """A count of 0 and, beside it, keys of 10 kB each that make up ``size_bytes`` of JSON and
    that no handler touches.
    """
    made: dict[str, Any] = {"count": 0}
    for number in range(size_bytes // 10_000):
        key = f"k{number:06}"
        made[key] = {"text": "x" * (10_000 - len(key) - len('"":{"text":""},'))}
    return made
