"""Every metric that ``/metrics`` can show, in order. ``python -m panels_gateway.observe.catalog`` prints them
as docs/metrics.md has them.
"""

from __future__ import annotations

from typing import Final

from panels_gateway.observe.metrics import FAMILIES, Family
from panels_gateway.observe.process import ProcessMetrics
from panels_gateway.observe.stages import STAGE_SECONDS, TRIGGER_SECONDS

#: What the gateway itself counts and measures.
OWN: Final[tuple[Family, ...]] = (*FAMILIES, STAGE_SECONDS, TRIGGER_SECONDS)


def reference() -> str:
    """The table of docs/metrics.md."""
    rows = ["| Metric | Kind | Label | What it shows |", "|---|---|---|---|"]
    for family in (*OWN, *(sample.family for sample in ProcessMetrics().samples())):
        label = f"`{family.label}`" if family.label else ""
        rows.append(f"| `{family.name}` | {family.kind} | {label} | {family.help} |")
    return "\n".join(rows)


if __name__ == "__main__":
    import sys

    sys.stdout.write(reference() + "\n")
