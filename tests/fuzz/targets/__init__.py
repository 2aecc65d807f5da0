"""Everything that is fuzzed, by name."""

from __future__ import annotations

from typing import Final

from tests.fuzz.target import Target
from tests.fuzz.targets import access, clients, guests, journals, panels, servers, wires

TARGETS: Final[dict[str, type[Target]]] = {
    target.name: target
    for room in (clients, wires, access, panels, journals, guests, servers)
    for target in room.TARGETS
}
