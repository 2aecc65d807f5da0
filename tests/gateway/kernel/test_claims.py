"""What a worker claims, against the tool's own definition."""

from __future__ import annotations

from dataclasses import astuple, replace

import msgspec
import pytest

from panels_gateway.kernel.claims import SLACK_US, InvalidOutcomeError, canonical, check, plausible
from panels_shared.handlers import DEFAULT_CAPABILITIES
from panels_shared.limits import Limits
from panels_shared.messages import Tool
from panels_shared.outcome import Completed, ExtensionCall, Failed, LogLine, Reason, Suspended, Usage

LIMITS = Limits(fuel=100, memory_bytes=1_000, host_calls=5, output_bytes=60, events=2, log_bytes=10)
OPEN = Tool(
    1, b"d" * 32, "javascript", "", "t", astuple(LIMITS), (*DEFAULT_CAPABILITIES, "view:update:*", "ext:*")
)
TIGHT = msgspec.structs.replace(
    OPEN, capabilities=("state:write:a*", "events:emit:e", "view:update:v", "ext:http.get")
)


def event(name: str) -> bytes:
    return msgspec.json.encode({"name": name, "payload": 1, "timestamp": 1})


def done(**fields: object) -> Completed:
    return Completed(Usage(), **fields)  # type: ignore[arg-type]


def waits(*calls: ExtensionCall) -> Suspended:
    return Suspended(Usage(), calls, b"")


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        (
            done(mutations=b'[{"op":"set","key":"ab","value":1}]'),
            done(mutations=b'[{"op":"set","key":"b","value":1}]'),
        ),
        (done(events=(event("e"),)), done(events=(event("f"),))),
        (
            done(view_commands=b'[{"viewId":"v","command":"c","params":1}]'),
            done(view_commands=b'[{"viewId":"w","command":"c","params":1}]'),
        ),
        (waits(ExtensionCall(1, "http", "get", b"[]")), waits(ExtensionCall(1, "http", "put", b"[]"))),
    ],
    ids=["write", "emit", "update", "call"],
)
def test_effects_are_those_that_the_tool_may_have(
    within: Completed | Suspended, beyond: Completed | Suspended
) -> None:
    check(within, TIGHT)
    check(beyond, OPEN)
    with pytest.raises(InvalidOutcomeError):
        check(beyond, TIGHT)


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        (done(events=(event("e"),) * 2), done(events=(event("e"),) * 3)),
        (done(return_value=b'"' + b"x" * 58 + b'"'), done(return_value=b'"' + b"x" * 59 + b'"')),
        (
            done(mutations=b'[{"op":"set","key":"a","value":%b}]' % (b"1" * 59)),
            done(mutations=b'[{"op":"set","key":"a","value":%b}]' % (b"1" * 60)),
        ),
        (
            waits(ExtensionCall(1, "x", "m", b"[" + b" " * 58 + b"]")),
            waits(ExtensionCall(1, "x", "m", b"[" + b" " * 59 + b"]")),
        ),
        (
            waits(ExtensionCall(1, "x", "m", b"[]"), ExtensionCall(2, "x", "m", b"[]")),
            waits(*[ExtensionCall(1, "x", "m", b"[]")] * 2),
        ),
        (done(events=(event("n" * 9),)), done(events=(event("n" * 257),))),
    ],
    ids=["events", "value", "mutations", "arguments", "numbers of calls", "name"],
)
def test_effects_are_as_many_as_the_tool_may_have(
    within: Completed | Suspended, beyond: Completed | Suspended
) -> None:
    check(within, OPEN)
    with pytest.raises(InvalidOutcomeError):
        check(beyond, OPEN)


@pytest.mark.parametrize("value", [b"1e999", b"9" * 5_000, b"[" * 70 + b"]" * 70, b'"\\ud800"', b"007", b""])
def test_values_are_those_that_panels_accepts_wherever_they_are(value: bytes) -> None:
    tool = msgspec.structs.replace(OPEN, limits=astuple(replace(LIMITS, output_bytes=100_000)))
    for outcome in (
        done(return_value=value),
        done(mutations=b'[{"op":"set","key":"a","value":%b}]' % value),
        done(mutations=b'[{"op":"set","key":"a","value":1,"beside":%b}]' % value),
        done(events=(b'{"name":"e","payload":%b,"timestamp":1}' % value,)),
        done(view_commands=b'[{"viewId":"v","command":"c","params":%b}]' % value),
        waits(ExtensionCall(1, "x", "m", b"[%b]" % value if value else b"")),
    ):
        with pytest.raises(InvalidOutcomeError):
            check(outcome, tool)


def test_usage_is_brought_within_its_bounds() -> None:
    kept = Completed(Usage(fuel=100, execution_us=10, memory_used_bytes=1_000, host_calls=6))
    assert plausible(kept, OPEN, 0.0) is kept
    most = 2**63 - 1
    outcome = plausible(Completed(Usage(most, most, most, most, most)), OPEN, 2.0)
    assert outcome.usage == Usage(100, 2_000_000 + SLACK_US, 1_000, 1_000, 6)
    assert plausible(Completed(Usage(-most, -1, -1, -1, -1)), OPEN, 2.0).usage == Usage(-1, 0, 0, 0, 0)


def test_what_a_failure_says_and_a_log_are_bounded() -> None:
    failed = plausible(Failed(Usage(), Reason.TRAP, "m" * 10_000, details=b"x" * 100_000), OPEN, 0.0)
    assert isinstance(failed, Failed)
    assert (len(failed.message), failed.details) == (4_096, b"{}")
    assert plausible(Completed(Usage(), log=(LogLine(1, "x" * 1_000),)), OPEN, 0.0).log == ()


@pytest.mark.parametrize(
    "text",
    [
        b'[{"op":"set","key":"a","value":{"b": [1]}}]',
        b'[{"op":"delete","key":"a\\n\xc3\xa9"},{"op":"set","key":"b","value":1}]',
        b"[]",
    ],
)
def test_honest_mutations_stay_as_they_are(text: bytes) -> None:
    outcome = done(mutations=text)
    assert canonical(outcome, check(outcome, OPEN)[0]) is outcome


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (b'[{"op":"set","key":"a","value":1,"path":"/x"}]', b'[{"op":"set","key":"a","value":1}]'),
        (b'[{"op":"set","key":"z","key":"a","value":1}]', b'[{"op":"set","key":"a","value":1}]'),
        (b'[{"op":"delete","key":"a","value":"hidden"}]', b'[{"op":"delete","key":"a"}]'),
        (b'[ {"op": "set", "key": "a", "value": 1} ]', b'[{"op":"set","key":"a","value":1}]'),
    ],
)
def test_what_stands_around_mutations_reaches_nobody(text: bytes, plain: bytes) -> None:
    outcome = done(mutations=text)
    assert canonical(outcome, check(outcome, OPEN)[0]).mutations == plain
