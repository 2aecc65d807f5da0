"""From JSON to the parameters of a method."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from panels_gateway.extensions.arguments import parameters_of
from panels_gateway.extensions.errors import CallFailedError, ErrorCode, ExtensionConfigError
from panels_gateway.extensions.extension import CallContext


class Point(msgspec.Struct):
    x: int
    y: int = 0


async def draw(context: CallContext, at: Point, label: str = "none", *, line_width: int = 1) -> None:
    """A method with each kind of parameter."""


PARAMETERS = parameters_of("shapes.draw", draw)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'[{"x":1}]', {"at": Point(1)}),
        (b'[{"x":1},"a"]', {"at": Point(1), "label": "a"}),
        (b'[{"x":1},"a",{"lineWidth":3}]', {"at": Point(1), "label": "a", "line_width": 3}),
        (b'[{"x":1},"a",null]', {"at": Point(1), "label": "a"}),
        (b'{"at":{"x":1,"y":2},"lineWidth":3}', {"at": Point(1, 2), "line_width": 3}),
    ],
)
def test_arguments_are_bound_by_position_options_and_name(text: bytes, expected: dict[str, Any]) -> None:
    assert PARAMETERS.bind(text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"[]", "Object missing required parameter `at`"),
        (b'[{"x":"one"}]', "Expected `int`, got `str` - at `at.x`"),
        (b'[{"x":1},2]', "Expected `str`, got `int` - at `label`"),
        (b'[{"x":1},"a",{"lineWidth":"wide"}]', "Expected `int`, got `str` - at `lineWidth`"),
        (b'[{"x":1},"a",{"colour":1}]', "expected an option of lineWidth, got `colour`"),
        (b'[{"x":1},"a",{"at":1}]', "expected an option of lineWidth, got `at`"),
        (b'[{"x":1},"a",3]', "expected an object of options as argument 3, got another type"),
        (b'[{"x":1},"a",{},4]', "expected at most 3 arguments, got 4"),
        (b'{"at":{"x":1},"colour":1}', "Object contains unknown parameter `colour`"),
        (b"1", "expected a list of arguments, or one object of them by name"),
        (b"[", "expected JSON: Input data was truncated"),
        (b"[" * 80 + b"]" * 80, "expected nesting of at most 64, got more"),
    ],
)
def test_arguments_are_refused_with_the_place(text: bytes, sentence: str) -> None:
    with pytest.raises(CallFailedError) as caught:
        PARAMETERS.bind(text)

    assert (caught.value.code, caught.value.message) == (ErrorCode.ARGUMENTS, sentence)


def test_method_that_takes_no_more_than_options_is_called_with_one_object() -> None:
    async def send(context: CallContext, *, to: str) -> None:
        """Only options."""

    assert parameters_of("mail.send", send).bind(b'[{"to":"ann"}]') == {"to": "ann"}


def test_default_is_the_functions_own_when_an_argument_is_left_out() -> None:
    assert "label" not in PARAMETERS.bind(b'{"at":{"x":1}}')


async def without_annotation(context, city) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Nobody knows what a city is."""


async def with_star(context: CallContext, *cities: str) -> None:
    """Any number."""


async def without_context() -> None:
    """No place for the context."""


async def with_two_structs(context: CallContext, value: Point | ExtensionConfigError) -> None:
    """A type that nothing can be validated against."""


def not_async(context: CallContext) -> None:
    """Blocks."""


@pytest.mark.parametrize(
    "function", [without_annotation, with_star, without_context, with_two_structs, not_async]
)
def test_method_is_refused_when_it_cannot_be_called(function: Any) -> None:
    with pytest.raises(ExtensionConfigError, match=r"^x\.y: "):
        parameters_of("x.y", function)
