"""What frames between gateway and workers cost: encoded, and decoded with every bound checked, beside
rivals on the same data.

The reference is bare msgpack, which checks nothing; JSON by msgspec is the fastest text
format there is in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack
import msgspec

from benchmarks.report import Report, Table, command, parser
from benchmarks.rounds import Subject, measure
from panels_shared.messages import Job, Result
from panels_shared.outcome import Completed, Usage
from panels_shared.wire import decode_to_gateway, decode_to_worker, encode

COUNTS = (1, 16)
#: The counter's values, and values of ten kilobytes.
SIZES = {"small": b"12345", "10 kB": b'"' + b"x" * 10_000 + b'"'}


def job(number: int, value: bytes) -> Job:
    """A job whose arguments are ``value``."""
    return Job(number, 7, 3, number, number - 1, 9, value, b"{}", 1.7e12, 2**63 + number)


def result(number: int, value: bytes) -> Result:
    """What the counter's job says, with ``value`` as the count."""
    usage = Usage(1_234, 45, 65_536, 65_536, 4, True)
    mutations = b'[{"op":"set","key":"count","value":%b}]' % value
    event = b'{"name":"incremented","payload":%b,"timestamp":1700000000000}' % value
    return Result(number, Completed(usage, value, mutations, (event,)))


def main() -> None:
    """Measures and prints."""
    options = parser("benchmarks.wire", __doc__).parse_args()
    report = Report(command("benchmarks.wire"))
    rounds, round_s = (3, 0.05) if options.quick else (7, 0.2)
    for size, value in SIZES.items():
        for count in COUNTS:
            report.tables.append(_table(size, value, count, rounds, round_s))
    report.publish(options.json)


def _table(size: str, value: bytes, count: int, rounds: int, round_s: float) -> Table:
    made = Table(
        f"{count} message{'s' if count > 1 else ''} in a frame, {size} values: µs per message",
        ("", "encode", "decode", "decode / msgpack", "bytes"),
    )
    kinds: dict[str, tuple[list[Any], Callable[[bytes], Any]]] = {
        "job": ([job(number, value) for number in range(count)], decode_to_worker),
        "result": ([result(number, value) for number in range(count)], decode_to_gateway),
    }
    for kind, (messages, decode) in kinds.items():
        plain: Any = msgspec.to_builtins(messages, builtin_types=(bytes,))
        text: Any = msgspec.json.decode(msgspec.json.encode(_text(plain)))
        frame, packed, json_text = encode(messages), msgpack.packb(plain), msgspec.json.encode(text)
        subjects: dict[str, Subject] = {
            "wire encode": _times(partial(encode, messages)),
            "wire decode": _times(partial(decode, frame)),
            "msgpack encode": _times(partial(msgpack.packb, plain)),
            "msgpack decode": _times(partial(msgpack.unpackb, packed)),
            "JSON encode": _times(partial(msgspec.json.encode, text)),
            "JSON decode": _times(partial(msgspec.json.decode, json_text)),
        }
        costs = {name: cost.wall_us / count for name,
        cost in measure(subjects, rounds=rounds, round_s=round_s).items()}  # fmt: skip
        reference = costs["msgpack decode"]
        for name, length in (("wire", len(frame)), ("msgpack", len(packed)), ("JSON", len(json_text))):
            decoded = costs[f"{name} decode"]
            made.add(
                f"{kind}, {name}", costs[f"{name} encode"], decoded, decoded / reference, length // count
            )
    return made


def _text(value: Any) -> Any:
    """``value`` with text for bytes, as JSON would have it."""
    if isinstance(value, bytes):
        return value.decode()
    return [_text(item) for item in value] if isinstance(value, list | tuple) else value


def _times(once: Callable[[], object]) -> Subject:
    def run(count: int) -> None:
        for _ in range(count):
            once()

    return run


if __name__ == "__main__":
    main()
