"""The weather, called as a handler would call it."""

from __future__ import annotations

import asyncio

import pytest
from panels_weather.weather import Weather

from panels_gateway.extensions.errors import CallFailedError, ErrorCode
from panels_gateway.extensions.testing import ExtensionHarness


def test_today_reports_in_the_unit_that_is_asked_for() -> None:
    async def run() -> None:
        async with ExtensionHarness(Weather(), settings={"cities": {"Bergen": 7}}) as weather:
            assert await weather.call("today", "Oslo") == {"city": "Oslo", "degrees": 4}
            assert await weather.call("today", "Bergen", {"unit": "kelvin"}) == {
                "city": "Bergen",
                "degrees": 280,
            }

    asyncio.run(run())


def test_today_refuses_what_it_does_not_know() -> None:
    async def run() -> None:
        async with ExtensionHarness(Weather()) as weather:
            with pytest.raises(CallFailedError, match="there is no report for Atlantis"):
                await weather.call("today", "Atlantis")
            with pytest.raises(CallFailedError) as caught:
                await weather.call("today", "Oslo", {"unit": "rankine"})
            assert caught.value.code is ErrorCode.ARGUMENTS

    asyncio.run(run())


def test_order_is_not_made_twice_under_one_key() -> None:
    async def run() -> None:
        async with ExtensionHarness(Weather()) as weather:
            first = await weather.call("order", 2, idempotency_key="k1")
            again = await weather.call("order", 2, idempotency_key="k1")
            other = await weather.call("order", 2, idempotency_key="k2")
            assert first == again != other

    asyncio.run(run())
