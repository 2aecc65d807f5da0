"""What it costs a sandbox to suspend a handler and to go on with it, and how large what it leaves is.

Beside it the same handler without an extension: it gets the same answer from an async function of its own.
The worker's side only: no sockets, no journal, no extension.
"""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Callable
from time import perf_counter
from typing import Final

from benchmarks.lone_sandbox import Engines, settle
from benchmarks.report import Report, Table, command, parser
from benchmarks.rounds import Cost, Subject, measure
from panels_shared.handlers import DEFAULT_CAPABILITIES
from panels_shared.limits import DEFAULT_LIMITS
from panels_shared.messages import Answered
from panels_shared.outcome import Completed, Suspended
from panels_worker.guest.capabilities import Capabilities
from panels_worker.guest.image import unpack
from panels_worker.guest.pages import exclusive_or
from panels_worker.guest.task import Execution, Task
from panels_worker.javascript.program import JavaScriptProgram

AWAITS: Final = 1_000
TARGET_US: Final = 2_000
TARGET_BYTES: Final = 32 * 1024
LEVELS: Final = (1, 3, 6, 9)

ANSWER: Final = (
    b'{"status":200,"statusText":"OK","headers":{"content-type":"application/json"},"data":{"n":1},"ok":true}'
)
BODY: Final = """
const answer = await http.get("https://api.example.org/orders/17", { headers: { accept: "application/json" } });
$state.n = ($state.n ?? 0) + answer.data.n;
$emit("fetched", { status: answer.status });
return answer.status;
"""
SUSPENDS: Final = "const http = $ext.http;" + BODY
DOES_NOT: Final = f"const http = {{ get: async () => (JSON.parse('{ANSWER.decode()}')) }};" + BODY
LOOPS: Final = "let n = 0; for (;;) { const r = await $ext.http.get(`https://example.org/${n}`); n += r.data.n; $state.n = n }"

#: Handlers that wait for ``http.get``, small and large.
WAITING: Final = {
    "one request": SUSPENDS,
    "three requests at once": """const urls = ["a", "b", "c"].map((u) => `https://example.org/${u}`);
        return (await Promise.all(urls.map((u) => $ext.http.get(u)))).map((r) => r.status)""",
    "a request after work on the state": """$state.rows ??= Array.from({ length: 200 }, (_, i) => ({ id: i, name: `row ${i}` }));
        const late = $state.rows.filter((row) => row.id % 3).map((row) => ({ ...row, late: true }));
        const r = await $ext.http.get("https://example.org"); return [late.length, r.status]""",
    "a class with retries": """class Client { #tries = 0; constructor(base) { this.base = base }
        async get(path) { for (;;) { try { return await $ext.http.get(this.base + path) }
        catch (e) { if (++this.#tries > 2) throw e; $log.warn(e.message) } } } }
        return (await new Client("https://example.org").get("/x")).status""",
    "regular expressions and a map of 2,000 entries": """const found = new Map();
        for (let i = 0; i < 2000; i++) found.set(`key ${i}`.replace(/\\s+/gu, "-"), i * 1.5);
        const r = await $ext.http.get("https://example.org"); return found.size + r.status""",
}  # fmt: skip


def task() -> Task:
    """A job that may call everything, on an empty state."""
    capabilities = Capabilities.of((*DEFAULT_CAPABILITIES, "ext:*"))
    return Task("t", b"null", b"{}", 1_700_000_000_000.0, 7, DEFAULT_LIMITS, capabilities, {})


def main() -> None:
    """Measures and prints."""
    options = parser("benchmarks.suspension", __doc__).parse_args()
    engines = Engines()
    rounds, round_s = (3, 0.1) if options.quick else (9, 0.4)
    tables = [costs(engines, rounds, round_s), growth(engines, rounds, round_s), sizes(engines)]
    Report(command("benchmarks.suspension"), tables).publish(options.json)


def suspended(execution: Execution) -> Suspended:
    """The suspension. Raises where there is none."""
    if not isinstance(execution.outcome, Suspended):
        raise TypeError(f"expected a suspension, got {execution.outcome}")
    return execution.outcome


def first(program: JavaScriptProgram) -> Suspended:
    """The first suspension of a handler."""
    return suspended(program.run(task()))


def go_on(program: JavaScriptProgram, before: Suspended, call: int) -> Execution:
    """One answer."""
    return program.resume(task(), before.image, (Answered(call, True, ANSWER),))


def repeated(once: Callable[[], Execution]) -> Subject:
    """A subject that checks that nothing fails."""

    def subject(count: int) -> None:
        for _ in range(count):
            if not isinstance(once().outcome, Completed | Suspended):
                raise TypeError("expected a handler that does not fail")

    return subject


def costs(engines: Engines, rounds: int, round_s: float) -> Table:
    """A suspension and its resumption beside the same handler without one."""
    waits, plain = engines.javascript(SUSPENDS), engines.javascript(DOES_NOT)
    image = first(waits)
    settle()
    found = measure(
        {
            "the same without awaiting an extension": repeated(lambda: plain.run(task())),
            "suspended": repeated(lambda: waits.run(task())),
            "resumed": repeated(lambda: go_on(waits, image, 1)),
            "suspended and resumed": repeated(lambda: go_on(waits, first(waits), 1)),
        },
        rounds=rounds,
        round_s=round_s,
    )
    base, both = (found[name] for name in ("the same without awaiting an extension", "suspended and resumed"))
    made = Table(
        "One suspension and its resumption", ("", "wall µs", "CPU µs", "CPU / without", "slowest / fastest")
    )
    for name, cost in found.items():
        made.add(name, cost.wall_us, cost.cpu_us, cost.cpu_us / base.cpu_us, cost.spread)
    more_us = both.cpu_us - base.cpu_us
    made.notes.append(
        f"CPU over the same without: {more_us:,.0f} µs, {more_us / TARGET_US:.2f} of the target of 2 ms."
    )
    return made


def growth(engines: Engines, rounds: int, round_s: float) -> Table:
    """The first and the thousandth resumption of one handler."""
    program = engines.javascript(LOOPS)
    begins = first(program)
    late = begins
    for call in range(1, AWAITS):
        late = suspended(go_on(program, late, call))
    settle()
    found: dict[str, Cost] = measure(
        {
            "await 1": repeated(lambda: go_on(program, begins, 1)),
            f"await {AWAITS:,}": repeated(lambda: go_on(program, late, AWAITS)),
        },
        rounds=rounds,
        round_s=round_s,
    )
    made = Table(
        "Resumptions of one handler, until it is suspended again",
        ("", "CPU µs", "ratio (target 1.2)", "image, bytes"),
    )
    base = found["await 1"].cpu_us
    for (name, cost), before in zip(found.items(), (begins, late), strict=True):
        made.add(name, cost.cpu_us, cost.cpu_us / base, len(before.image))
    return made


def sizes(engines: Engines) -> Table:
    """What handlers leave that wait for ``http.get``, and what other levels of compression would make of
    it.
    """
    made = Table(
        "Images of handlers that wait for http.get",
        ("", "pages", "image, bytes", *(f"level {level}: bytes, µs" for level in LEVELS)),
        notes=["Levels are those of zlib, for the pages alone."],
    )
    lengths = []
    for name, source in WAITING.items():
        program = engines.javascript(source)
        image = first(program).image
        identity, baseline = program.fits()
        runs = unpack(image, identity, baseline, memory_bytes=DEFAULT_LIMITS.memory_bytes).runs
        pages = b"".join(exclusive_or(data, at, baseline) for at, data in runs)
        made.add(name, len(pages) // 4096, len(image), *(_compressed(pages, level) for level in LEVELS))
        lengths.append(len(image))
    median = statistics.median(lengths)
    made.notes.append(f"Median: {median:,.0f} bytes, {median / TARGET_BYTES:.2f} of the target of 32 kB.")
    return made


def _compressed(pages: bytes, level: int) -> str:
    times = []
    size = 0
    for _ in range(9):
        began = perf_counter()
        size = len(zlib.compress(pages, level))
        times.append(perf_counter() - began)
    return f"{size:,}, {statistics.median(times) * 1e6:,.0f}"


if __name__ == "__main__":
    main()
