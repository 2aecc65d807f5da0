"""``$ext.weather``: reports by city, and orders of umbrellas."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from panels_gateway.extensions.errors import ExtensionError
from panels_gateway.extensions.extension import (
    CallContext,
    Environment,
    Extension,
    method,
)

KELVIN_AT_ZERO_CELSIUS = 273


class Report(msgspec.Struct):
    """What a handler gets."""

    city: str
    degrees: int


class Weather(Extension):
    """Knows a few cities by heart. Its setting ``cities`` adds more, in degrees Celsius."""

    name = "weather"

    async def startup(self, environment: Environment) -> None:
        """Reads the settings. A wrong type ends the start, with its place."""
        settings = environment.settings.get("cities", {})
        self._cities = {"Oslo": 4, "Rome": 19} | msgspec.convert(settings, dict[str, int])
        self._orders: dict[str, int] = {}

    @method(timeout_s=2, repeatable=True)
    async def today(
        self, context: CallContext, city: str, *, unit: Literal["celsius", "kelvin"] = "celsius"
    ) -> Report:
        """A report. It changes nothing, so that it may be asked for again after a crash."""
        if city not in self._cities:
            raise ExtensionError(f"there is no report for {city}")
        degrees = self._cities[city]
        return Report(city, degrees + KELVIN_AT_ZERO_CELSIUS if unit == "kelvin" else degrees)

    @method(timeout_s=2, concurrency=1, repeatable=True)
    async def order(self, context: CallContext, umbrellas: Annotated[int, msgspec.Meta(ge=1, le=10)]) -> int:
        """The number of an order. Repeatable, because an order under a key that is known is not made twice.

        A real shop would be handed the key, and remember it longer than this process lives.
        """
        return self._orders.setdefault(context.idempotency_key, len(self._orders) + 1)
