"""The serial model of a soak's panels: what their clients heard is replayed, one version after another.

Handlers of two kinds change a panel: ``fold`` folds its number into ``h``, so that ``h`` depends on the order
of all before it; ``count`` adds one to ``count``. A change from outside replaces the whole state, and its key
``put`` says which change it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

#: ``h`` stays below this.
MODULUS: Final = 1_000_003

State = dict[str, Any]


@dataclass(slots=True)
class Room:
    """A panel: what was asked of it and what its clients heard."""

    id: str
    #: number of each trigger → its tool
    asked: dict[int, str] = field(default_factory=dict)
    #: version → value by key, None for a deleted key; heard by the observer
    versions: dict[int, State] = field(default_factory=dict)
    #: (version, payload) of each EVENT that the observer heard
    events: list[tuple[int, Any]] = field(default_factory=list)
    #: (number, version, return value) of each RESULT
    results: list[tuple[int, int, Any]] = field(default_factory=list)
    #: numbers that were answered by an error
    failed: set[int] = field(default_factory=set)
    #: numbers of changes from outside → the state they set
    outside: dict[int, State] = field(default_factory=dict)
    #: (version, state) as clients knew it: from CONNECTED, or from it and every PATCH since
    replicas: list[tuple[int, State]] = field(default_factory=list)
    #: the last version that the observer heard
    seq: int = 0


def compare(room: Room, seq: int, state: State) -> list[str]:
    """What differs between what a panel's clients heard, its final ``state`` at ``seq``, and the
    serial model; empty is right.
    """
    wrong: list[str] = []
    if list(room.versions) != list(range(1, seq + 1)):
        wrong.append(f"expected the observer to hear versions 1 to {seq}, got {len(room.versions)}")
    model: State = {}
    committed: dict[int, int] = {}
    replicas: dict[int, list[State]] = {}
    for version, replica in room.replicas:
        replicas.setdefault(version, []).append(replica)
    wrong += _differing(replicas.pop(0, []), model, 0)
    for version in sorted(room.versions):
        changes = room.versions[version]
        expected, number = _step(room, model, changes)
        model = apply(model, changes)
        if model != expected:
            wrong.append(f"expected {expected} at version {version}, got {model}")
        if number is not None:
            wrong += _committed(room, committed, number, version)
        wrong += _differing(replicas.pop(version, []), model, version)
    if replicas:
        wrong.append(f"clients knew of versions {sorted(replicas)[:5]}, which the observer did not hear")
    if state != model:
        wrong.append(f"expected the state {model}, got {state}")
    return [f"{room.id}: {text}" for text in (*wrong, *_answers(room, committed), *_events(room))]


def apply(state: State, changes: State) -> State:
    """``state`` after a PATCH's ``changes``; None deletes a key."""
    return {key: value for key, value in {**state, **changes}.items() if value is not None}


def _step(room: Room, model: State, changes: State) -> tuple[State, int | None]:
    """The state that the serial model has after this change, and the number of it, None where it has none."""
    if "put" in changes and changes["put"] is not None:
        return dict(room.outside.get(changes["put"], {})), -changes["put"]
    if set(changes) == {"count"}:
        return model | {"count": model.get("count", 0) + 1}, None
    number = changes.get("last", 0)
    h = (model.get("h", 0) * 31 + number) % MODULUS
    return model | {"h": h, "last": number, "n": model.get("n", 0) + 1}, number


def _committed(room: Room, committed: dict[int, int], number: int, version: int) -> Iterator[str]:
    """Notes that ``number`` was committed as ``version``; says whether it could be."""
    if number in committed:
        yield f"{number} was committed as {committed[number]} and as {version}"
    committed[number] = version
    if number >= 0 and room.asked.get(number) != "fold":
        yield f"version {version} is of {number}, which was not asked"
    if number in room.failed:
        yield f"version {version} is of {number}, which was said to have failed"


def _differing(replicas: list[State], model: State, version: int) -> Iterator[str]:
    for replica in replicas:
        if replica != model:
            yield f"expected every client to know {model} at version {version}, got {replica}"


def _answers(room: Room, committed: dict[int, int]) -> Iterator[str]:
    """Each RESULT says what its version holds, and no two of them the same version."""
    counted: set[int] = set()
    for number, version, value in room.results:
        changes = room.versions.get(version, {})
        if room.asked[number] == "fold":
            right = committed.get(number) == version and value[1] == changes.get("h", value[1])
        else:
            right = set(changes) == {"count"} and changes["count"] == value and version not in counted
            counted.add(version)
        if not right:
            yield f"{number} was answered {value} at version {version}, which is {changes}"
    for change in room.outside:
        if -change not in committed:
            yield f"the change {change} from outside was never heard of"


def _events(room: Room) -> Iterator[str]:
    """Each version that a handler made has its one event, in order."""
    expected = []
    for version, changes in room.versions.items():
        if set(changes) == {"count"}:
            expected.append((version, changes["count"]))
        elif changes.get("put") is None:
            expected.append((version, changes.get("last")))
    if expected != room.events:
        at = next(
            (
                index
                for index, pair in enumerate(zip(expected, room.events, strict=False))
                if pair[0] != pair[1]
            ),
            min(len(expected), len(room.events)),
        )
        yield (
            f"expected {len(expected)} events, got {len(room.events)}; "
            f"the first that differ: {expected[at : at + 1]}, {room.events[at : at + 1]}"
        )
