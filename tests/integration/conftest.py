"""The systems that integration tests share. Starting one costs seconds, so there are as few as can be."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.system import System, running_system

MakeSystem = Callable[..., System]


@pytest.fixture(scope="session")
def cache_dir() -> Iterator[Path]:
    """Compiled handlers of all systems of this session."""
    folder = Path(tempfile.mkdtemp(prefix="ptc-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder / "cache"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def system(cache_dir: Path) -> Iterator[System]:
    """A gateway with authentication and two sandbox processes. No test may harm it."""
    with running_system(cache_dir=cache_dir) as started:
        yield started


@pytest.fixture(scope="session")
def open_system() -> Iterator[System]:
    """A gateway without authentication and without workers: for panels that have no tools."""
    with running_system(processes=0, auth=False) as started:
        yield started


@pytest.fixture
def make_system(cache_dir: Path) -> Iterator[MakeSystem]:
    """Makes systems that the test may destroy; ``processes=0`` starts no pool."""
    with ExitStack() as stack:

        def make(
            *, processes: int = 2, gateway: Sequence[str] = (), pool: Sequence[str] = (), auth: bool = True
        ) -> System:
            return stack.enter_context(
                running_system(
                    processes=processes, gateway=gateway, pool=pool, auth=auth, cache_dir=cache_dir
                )
            )

        yield make


@pytest.fixture
def strace() -> None:
    """For tests that need strace: they say so where it is missing, and fail where it has to be there."""
    if shutil.which("strace") is None:
        missing = "expected strace on PATH, found none; install it: apt-get install strace"
        if os.environ.get("CI_TOOLCHAIN"):
            pytest.fail(missing)
        pytest.skip(missing)
