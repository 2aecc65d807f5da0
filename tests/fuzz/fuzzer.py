"""Runs one target: makes inputs, keeps those with a new outcome, and stops at the first finding."""

from __future__ import annotations

import hashlib
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fuzz.mutation import Mutator
from tests.fuzz.shrinking import shrink
from tests.fuzz.target import Target, bounded

REGRESSIONS: Final = Path(__file__).with_name("regressions")
#: Inputs of the corpus; above it a random one that is no seed makes room.
MAX_CORPUS: Final = 4_096
#: Bytes of an input that is kept: larger ones are slow, and what grows once grows again.
MAX_KEPT_BYTES: Final = 4_096
#: Outcomes that are remembered. A target whose outcomes vary with its input must not grow without a bound.
MAX_OUTCOMES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that fails. ``kind`` names the fault: what was raised, and where."""

    data: bytes
    kind: str
    text: str


def warm(target: Target) -> None:
    """Runs a seed without measuring it, because what is made once for all inputs is not the input's cost."""
    target.run(target.seeds()[0])


def execute(target: Target, data: bytes) -> str | Finding:
    """What comes of one input."""
    try:
        with bounded(target.cost, len(data)):
            return target.run(data)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        # a panic of Rust is no Exception either
        return Finding(data, kind_of(error), "".join(traceback.format_exception(error, limit=-8)))


def kind_of(error: BaseException) -> str:
    """The name of a fault, the same for all inputs that show it."""
    first, *_ = str(error).splitlines() or [""]
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, AssertionError):
        return f"{type(error).__name__}: {first}"
    where = frames[-1] if frames else None
    return (
        f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
        if where
        else type(error).__name__
    )


class Fuzzer:
    """Inputs for one target, from one seed. ``before`` is called with each input that is about to run."""

    def __init__(
        self, target: Target, seed: int, *, before: Callable[[bytes], None] = lambda _data: None
    ) -> None:
        self.target = target
        self.executions = 0
        self.outcomes: set[str] = set()
        self._rng = random.Random(f"{target.name} {seed}")
        self._mutator = Mutator(
            self._rng, codec=target.codec, tokens=target.tokens, keep_open=target.envelope
        )
        self._before = before
        self._seeds = target.seeds()
        self.corpus = list(self._seeds)
        self._unused = list(reversed(self._seeds))
        warm(target)

    def step(self) -> Finding | None:
        """Runs one input: the seeds as they are, and mutated ones from then on."""
        if self._unused:
            data = self._unused.pop()
        else:
            # the corpus fills with inputs that are refused early, and valid ones have to keep their share
            choice = self._rng.choice
            data = choice(self._seeds if self._rng.random() < 0.4 else self.corpus)
            data = self._mutator.mutate(data, choice(self.corpus))
        self.executions += 1
        self._before(data)
        outcome = execute(self.target, data)
        if isinstance(outcome, Finding):
            return outcome
        if outcome not in self.outcomes and len(self.outcomes) < MAX_OUTCOMES:
            self.outcomes.add(outcome)
            self._keep(data)
        return None

    def _keep(self, data: bytes) -> None:
        if len(data) > MAX_KEPT_BYTES:
            return
        if len(self.corpus) < MAX_CORPUS:
            self.corpus.append(data)
        elif len(self._seeds) < MAX_CORPUS:
            self.corpus[self._rng.randrange(len(self._seeds), MAX_CORPUS)] = data


def minimise(target: Target, finding: Finding) -> Finding:
    """The same finding with the smallest input that shows it."""
    smallest = finding

    def fails(data: bytes) -> bool:
        nonlocal smallest
        found = execute(target, data)
        if isinstance(found, Finding) and found.kind == finding.kind:
            smallest = found
            return True
        return False

    shrink(finding.data, fails, codec=target.codec)
    return smallest


def regression_path(target: str, data: bytes, *, folder: Path = REGRESSIONS) -> Path:
    """Where an input that failed is kept."""
    return folder / target / hashlib.sha256(data).hexdigest()[:16]


def save(target: str, data: bytes, *, folder: Path = REGRESSIONS) -> Path:
    """Keeps an input that failed, for ``test_fuzz.py`` to run from now on."""
    path = regression_path(target, data, folder=folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def regressions(target: str, *, folder: Path = REGRESSIONS) -> list[Path]:
    """The inputs that failed once."""
    return sorted(path for path in (folder / target).glob("*") if path.is_file())
