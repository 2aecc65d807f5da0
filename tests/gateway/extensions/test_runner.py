"""From a call to its answer, and the extensions that there are."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from panels_gateway.extensions.config import ExtensionsConfig
from panels_gateway.extensions.errors import CallFailedError, ErrorCode, ExtensionConfigError
from panels_gateway.extensions.extension import CallContext, Extension, method
from panels_gateway.extensions.registry import Registry, discover, interceptors_of
from panels_gateway.extensions.testing import ExtensionHarness
from tests.gateway.extensions.samples import Sample, doorkeeper

HERE = "tests.gateway.extensions.samples"


def called(name: str, *arguments: Any, **who: str) -> Any:
    async def run() -> Any:
        async with ExtensionHarness(Sample()) as sample:
            return await sample.call(name, *arguments, **who)

    return asyncio.run(run())


def test_result_comes_back_as_json() -> None:
    assert called("echo", {"a": [1, None, "\u00e4"]}) == {"a": [1, None, "\u00e4"]}


def test_context_says_who_calls() -> None:
    who = {"panel": "p", "tool": "t", "principal": "ann", "suspension": "s", "idempotency_key": "k"}

    assert called("who", **who) == list(who.values())


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("nope", ErrorCode.METHOD_UNKNOWN, "the extension sample has no method 'nope'"),
        ("startup", ErrorCode.METHOD_UNKNOWN, "the extension sample has no method 'startup'"),
        ("refuses", ErrorCode.FAILED, "the shop is closed"),
        ("breaks", ErrorCode.FAILED, "sample.breaks failed"),
        ("times_out_by_itself", ErrorCode.FAILED, "sample.times_out_by_itself failed"),
        ("is_cancelled_by_itself", ErrorCode.FAILED, "sample.is_cancelled_by_itself failed"),
        ("is_slow", ErrorCode.TIMEOUT, "sample.is_slow took longer than 0.05 s"),
        ("echo", ErrorCode.ARGUMENTS, "Object missing required parameter `value`"),
        ("returns_an_object", ErrorCode.RESULT, "sample.returns_an_object returned a value that is not JSON"),
        ("returns_a_circle", ErrorCode.RESULT, "sample.returns_a_circle returned a value that is not JSON"),
        (
            "returns_too_deep",
            ErrorCode.RESULT,
            "the result of sample.returns_too_deep: expected nesting of at most 64, got more",
        ),
        (
            "returns_too_much",
            ErrorCode.LIMIT,
            "expected a result of sample.returns_too_much of at most 4194304 bytes, got 5000002",
        ),
    ],
)
def test_failure_says_what_the_handler_may_know(name: str, code: ErrorCode, sentence: str) -> None:
    with pytest.raises(CallFailedError) as caught:
        called(name)

    assert (caught.value.code, caught.value.message) == (code, sentence)


def test_failure_of_another_extension_is_unknown() -> None:
    with pytest.raises(CallFailedError) as caught:
        called("echo", 1, extension="other")

    assert caught.value.code is ErrorCode.UNKNOWN


def test_detail_of_an_exception_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(CallFailedError):
        called("breaks")

    assert "hunter2" in caplog.text


def test_message_is_cut_to_what_a_frame_takes() -> None:
    with pytest.raises(CallFailedError) as caught:
        called("long_winded")

    assert len(caught.value.message) == 1_024


def test_interceptor_stands_around_every_call() -> None:
    async def run() -> None:
        async with ExtensionHarness(Sample(), interceptors=[doorkeeper]) as sample:
            assert await sample.call("echo", 1) == {"arguments": {"value": 1}, "result": 1}
            with pytest.raises(CallFailedError, match="banned"):
                await sample.call("echo", 1, panel="banned")

    asyncio.run(run())


def test_extensions_are_found_by_name_as_class_or_object() -> None:
    config = ExtensionsConfig(
        extensions=[f"{HERE}:Sample"], interceptors=[f"{HERE}:doorkeeper"], entry_points=False
    )

    assert [type(extension) for extension in discover(config)] == [Sample]
    assert interceptors_of(config) == [doorkeeper]


@pytest.mark.parametrize(
    "name",
    ["json", "json:", ":x", "no_such_module:x", "json:nothing", "json:dumps", f"{HERE}:LongWindedError"],
)
def test_extension_is_refused_when_it_is_none(name: str) -> None:
    with pytest.raises(ExtensionConfigError, match=r"."):
        discover(ExtensionsConfig(extensions=[name], entry_points=False))


class Nameless(Extension):
    """Has forgotten its name."""


class Twice(Extension):
    """Has two methods of one name."""

    name = "twice"

    @method(name="same")
    async def one(self, context: CallContext) -> None:
        """One."""

    @method(name="same")
    async def two(self, context: CallContext) -> None:
        """Two."""


@pytest.mark.parametrize(
    "extensions", [[Nameless()], [Twice()], [Sample(), Sample()]], ids=["name", "method", "twins"]
)
def test_registry_refuses_names_that_say_nothing_or_two_things(extensions: list[Extension]) -> None:
    with pytest.raises(ExtensionConfigError):
        Registry(extensions)
