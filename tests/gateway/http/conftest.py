"""A gateway, and clients of it with and without tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.http.callers import make_client
from tests.support.gateway import Gateway


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with make_client(gateway) as made:
        yield made


@pytest.fixture
async def guarded(gateway: Gateway, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with make_client(gateway, secret_file=tmp_path / "secret") as made:
        yield made
