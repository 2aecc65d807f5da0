"""What watch prints of what it heard."""

from __future__ import annotations

from panels_cli.showing import MAX_LINES, lines
from panels_cli.watching import Changed, Gap, Greeted, Happened, Heard, Told


def text(heard: Heard) -> list[str]:
    return ["".join(part for part, _ in parts) for parts in lines(heard)]


def test_every_kind_has_its_lines() -> None:
    assert text(Greeted("connected", 2, {}, {"a": 1})) == ["● connected, version 2", "  + a 1"]
    assert text(Greeted("recovered", 2, {}, {"a": 1})) == ["● recovered: nothing was missed, version 2"]
    assert text(Greeted("resynced", 2, {"a": 1}, {}))[1:] == ["  - a 1"]
    assert text(Changed(3, {"a": {"b": 1}}, {"a": {"b": 2}})) == ["3", "  ~ a.b 1 → 2"]
    assert text(Happened(3, "e", "x\x1b")) == ['3 ! e "x\\u001b"']
    assert text(Gap("why")) == ["● something is missing: why"]
    assert text(Told("TOKEN_EXPIRING", {})) == ["● the token expires soon"]
    assert text(Told("PONG", {})) == []
    here = {"clients": 4, "subjects": {"ada": 2, "bob": 1}, "whole": True}
    assert text(Told("PRESENCE", here)) == ["● here: ada (2 clients), bob; 4 clients in all"]
    gone = {"clients": 1, "subjects": {"bob": 0}}
    assert text(Told("PRESENCE", gone)) == ["● presence: bob has left; 1 client in all"]
    assert text(Told("PRESENCE", {"clients": 0, "subjects": None})) == ["● presence: 0 clients in all"]


def test_large_changes_are_cut() -> None:
    shown = text(Changed(1, {}, {str(n): "x" * 10_000 for n in range(1000)}))
    assert len(shown) == MAX_LINES + 2
    assert max(map(len, shown)) < 300
