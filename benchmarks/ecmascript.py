"""The public ECMAScript suites in the same engine under two hosts: ours, and the one that
``quickjs-rs`` has itself.

What the engine can is the engine's affair; that our host takes nothing away from it is what this shows.
Without arguments it takes the committee's parser tests from npm (test262-parser-tests); with ``--test262
FOLDER`` a checkout of tc39/test262, scripts only: modules want a loader, which handlers have not. Exits with
1 when a test fares worse here than there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import quickjs_rs
from wasmtime import Module, Trap

from benchmarks.report import Report, Table
from benchmarks.rival_quickjs import NPM_FOLDER
from panels_shared.limits import MIB
from panels_worker.guest.effects import Effects, LimitReached
from panels_worker.guest.engine import make_engine
from panels_worker.guest.traps import GuestTrap, HostStop
from panels_worker.javascript.engines import QUICKJS, engine_source
from panels_worker.javascript.guest import MAX_JS_STACK_BYTES, NO_TASK, JavaScriptGuest, ScriptError

PARSER_TESTS: Final = "test262-parser-tests"
PARSER_TESTS_VERSION: Final = "0.0.5"
FUEL: Final = 2_000_000_000
#: For what only has to parse, and may then run for ever.
PARSE_FUEL: Final = 50_000_000
PARSE_TIMEOUT_S: Final = 0.3
MEMORY_BYTES: Final = 128 * MIB
TIMEOUT_S: Final = 3.0
_FRONT_MATTER = re.compile(r"/\*---(.*?)---\*/", re.DOTALL)
_PRINT: Final = "globalThis.__printed = []; globalThis.print = (...a) => { __printed.push(a.join(' ')) };\n"
_COMPLETE: Final = "Test262:AsyncTestComplete"


@dataclass(frozen=True, slots=True)
class Case:
    """One test: a script, and what it must do.

    ``error``: the class of the error that it must end with, "" for none.

    ``any_error``: it may end with any error but a SyntaxError, as what only has to parse may.
    """

    name: str
    group: str
    source: str
    module: bool = False
    error: str = ""
    any_error: bool = False
    is_async: bool = False

    def verdict(self, ended: str, printed: str) -> str:
        """ "pass", or why not."""
        if self.any_error:
            return "pass" if ended != "SyntaxError" else "SyntaxError, and it should parse"
        if ended != self.error:
            return f"expected {self.error or 'success'}, got {ended or 'success'}"
        return "pass" if not self.is_async or printed == _COMPLETE else f"printed {printed[:80]!r}"


class OurHost:
    """The guest in our engine, with fuel and limits, a fresh instance for each test."""

    def __init__(self) -> None:
        engine = make_engine()
        self._guest = JavaScriptGuest(engine, Module(engine, engine_source(QUICKJS)))

    def run(self, case: Case) -> tuple[str, str]:
        """The class of the error that ended it ("" for none), and what it printed last."""
        run = self._guest.open(
            Effects(NO_TASK),
            fuel=PARSE_FUEL if case.any_error else FUEL,
            epoch_ticks=1_000_000,
            memory_bytes=MEMORY_BYTES,
        )
        try:
            run.store.call(run.export(b"set_max_stack_size"), MAX_JS_STACK_BYTES)
            run.allocate()
            if case.module:
                run.evaluate_module(case.source.encode("utf-8", "surrogatepass"), b"test")
            else:
                run.evaluate(case.source.encode("utf-8", "surrogatepass"))
            run.call(b"execute_pending_jobs")
            return "", _last(lambda text: run.string(run.evaluate(text.encode()))) if case.is_async else ""
        except ScriptError as error:
            return error.name or "thrown", ""
        except GuestTrap as trap:
            return trap.kind.value, ""
        except (HostStop, LimitReached) as stop:
            return type(stop).__name__, ""
        finally:
            run.close()


class OwnHost:
    """The same guest in the package's own Python host."""

    def run(self, case: Case) -> tuple[str, str]:
        """As ``OurHost.run``."""
        runtime = quickjs_rs.Runtime(memory_limit=MEMORY_BYTES)
        context = runtime.new_context(timeout=PARSE_TIMEOUT_S if case.any_error else TIMEOUT_S)
        try:
            if not case.is_async:
                context.eval(case.source, module=case.module)
                return "", ""
            # a value that Python has; pending jobs are run while an asynchronous call waits, and only then
            context.eval(case.source + "\n;void 0;")
            asyncio.run(context.eval_async("for (let turn = 0; turn < 200; turn++) await 0; 1"))
            return "", _last(lambda text: str(context.eval(text)))
        except quickjs_rs.JSError as error:
            return error.name or "thrown", ""
        except quickjs_rs.MarshalError:
            return "", ""  # it ended well with a value that Python has none for
        except (quickjs_rs.QuickJSError, UnicodeError, Trap) as error:
            return type(error).__name__, ""
        finally:
            with contextlib.suppress(Trap, quickjs_rs.QuickJSError):  # after a trap nothing of it is sound
                context.close()
                runtime.close()


def _last(ask: object) -> str:
    assert callable(ask)
    return str(ask("String(__printed[__printed.length - 1])"))


def parser_tests() -> Iterator[Case]:
    """Scripts and modules that must parse, and ones that must not."""
    folder = NPM_FOLDER / "node_modules" / PARSER_TESTS
    if not folder.exists():
        NPM_FOLDER.mkdir(parents=True, exist_ok=True)
        (NPM_FOLDER / "package.json").touch()
        (NPM_FOLDER / "package.json").write_text('{"private": true}\n')
        package = f"{PARSER_TESTS}@{PARSER_TESTS_VERSION}"
        subprocess.run(
            ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent", package],
            cwd=NPM_FOLDER,
            check=True,
        )
    for group in ("pass", "pass-explicit", "fail", "early"):
        for path in sorted((folder / group).glob("*.js")):
            source = path.read_text(encoding="utf-8")
            parses = group.startswith("pass")
            yield Case(
                f"{group}/{path.name}",
                group,
                source,
                module=path.name.endswith(".module.js"),
                error="" if parses else "SyntaxError",
                any_error=parses,
            )


def test262(folder: Path, only: str) -> Iterator[Case]:
    """Scripts of a checkout of tc39/test262, each in the modes that it asks for."""
    harness: dict[str, str] = {}

    def included(name: str) -> str:
        if name not in harness:
            harness[name] = (folder / "harness" / name).read_text(encoding="utf-8")
        return harness[name]

    for path in sorted((folder / "test").rglob("*.js")):
        name = str(path.relative_to(folder / "test"))
        if path.stem.endswith("_FIXTURE") or not name.startswith(only):
            continue
        source = path.read_text(encoding="utf-8")
        found = _FRONT_MATTER.search(source)
        matter = found[1] if found is not None else ""
        flags = _list(matter, "flags")
        if "module" in flags or "CanBlockIsFalse" in flags:
            continue
        error = re.search(r"negative:.*?type:\s*(\w+)", matter, re.DOTALL)
        raw, is_async = "raw" in flags, "async" in flags
        names = [
            "assert.js",
            "sta.js",
            *(["doneprintHandle.js"] if is_async else []),
            *_list(matter, "includes"),
        ]
        before = "" if raw else _PRINT + "\n".join(included(each) for each in names) + "\n"
        modes = [""] if raw or "noStrict" in flags else ['"use strict";\n']
        if not {"raw", "noStrict", "onlyStrict"} & set(flags):
            modes.append("")
        for mode in modes:
            yield Case(
                f"{name}{' (strict)' if mode else ''}",
                "/".join(name.split("/")[:2]),
                mode + before + source,
                error=error[1] if error is not None else "",
                is_async=is_async,
            )


def _list(matter: str, key: str) -> list[str]:
    inline = re.search(rf"^\s*{key}:\s*\[(.*?)\]", matter, re.MULTILINE | re.DOTALL)
    if inline is not None:
        return [part.strip() for part in inline[1].split(",") if part.strip()]
    block = re.search(rf"^\s*{key}:\s*\n((?:\s+-\s*\S+\s*\n?)+)", matter, re.MULTILINE)
    return re.findall(r"-\s*(\S+)", block[1]) if block is not None else []


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ecmascript", description=__doc__)
    parser.add_argument("--test262", type=Path, metavar="FOLDER", help="a checkout of tc39/test262")
    parser.add_argument("--only", default="", metavar="PREFIX", help="tests whose path begins so")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables there, too")
    options = parser.parse_args()
    cases = test262(options.test262, options.only) if options.test262 else parser_tests()
    ours, own = OurHost(), OwnHost()
    counts: dict[str, Counter[str]] = {}
    worse: list[tuple[str, str, str]] = []
    for number, case in enumerate(cases):
        here, there = case.verdict(*ours.run(case)), case.verdict(*own.run(case))
        count = counts.setdefault(case.group, Counter())
        count["tests"] += 1
        count["here"] += here == "pass"
        count["there"] += there == "pass"
        count["differ"] += (here == "pass") != (there == "pass")
        if here != "pass" and there == "pass":
            worse.append((case.name, here, there))
        if number % 500 == 499:
            sys.stderr.write(f"{number + 1} tests, {len(worse)} fare worse here\n")
    table = Table("Tests that pass", ("", "tests", "under our host", "under quickjs-rs's own", "differ"))
    for group, count in counts.items():
        table.add(group, count["tests"], count["here"], count["there"], count["differ"])
    total = sum(counts.values(), Counter[str]())
    table.add("all", total["tests"], total["here"], total["there"], total["differ"])
    differences = Table("Tests that fare worse here", ("test", "here", "there"))
    for row in worse[:200]:
        differences.add(*row)
    command = " ".join(["python", "-m", "benchmarks.ecmascript", *sys.argv[1:]])
    Report(command, [table, *([differences] if worse else [])]).publish(options.json)
    sys.exit(1 if worse else 0)


if __name__ == "__main__":
    main()
