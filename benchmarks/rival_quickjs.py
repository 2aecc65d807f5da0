"""Rivals that isolate a script by a fresh QuickJS context per call: ``quickjs-rs`` in Python,
``quickjs-emscripten`` in Node.

Both run the same handler between the same lines, which are as cheap as they can be: JSON goes in as text
and comes out as text, no call crosses to the host, nothing is validated, nothing is limited but what the
package limits by itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
from quickjs_rs import Runtime

ROOT: Final = Path(__file__).resolve().parents[1]
#: Where npm puts packages for benchmarks: outside of version control.
NPM_FOLDER: Final = ROOT / "build" / "npm"
EMSCRIPTEN_VERSION: Final = "0.32.0"

_FIRST: Final = {"args": {}, "state": {"count": 0}}


def around(source: str) -> str:
    """A script whose value is a function from ``{args, state}`` to ``{returnValue, state, events}``, both
    JSON.
    """
    return (
        "(function (text) {"
        " const { args: $args, state: $state } = JSON.parse(text);"
        " const events = [];"
        " const $emit = (name, payload) => { events.push({ name, payload }); };"
        f" const returnValue = (function () {{\n{source}\n}})();"
        " return JSON.stringify({ returnValue, state: $state, events });"
        "})"
    )


def _check(answer: str, count: int) -> None:
    found = json.loads(answer)
    if found["returnValue"] != count or len(found["events"]) != 1:
        raise RuntimeError(f"expected a count of {count} and one event, got {answer}")


def fresh_context(source: str) -> Callable[[int], None]:
    """A subject for ``rounds.measure``: ``quickjs-rs``, one runtime, a fresh context for each call."""
    runtime = Runtime()
    script = around(source)

    def run(count: int) -> None:
        values: Any = _FIRST
        answer = ""
        for _ in range(count):
            context = runtime.new_context()
            try:
                answer = context.eval(f"{script}({json.dumps(json.dumps(values))})")
            finally:
                context.close()
            values = {"args": {}, "state": json.loads(answer)["state"]}
        _check(answer, count)

    return run


class Emscripten:
    """A Node process with ``quickjs-emscripten`` in it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._psutil = psutil.Process(process.pid)

    def subject(self, mode: str) -> Callable[[int], None]:
        """A subject for ``rounds.measure``.

        ``mode``: what is fresh in each call, "context" or "runtime" (and context).
        """

        def run(count: int) -> None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps([mode, count, _FIRST]) + "\n")
            self._process.stdin.flush()
            _check(self._process.stdout.readline(), count)

        return run

    def cpu_s(self) -> float:
        """CPU seconds that Node has used, all threads."""
        times = self._psutil.cpu_times()
        return float(times.user + times.system)


@contextmanager
def emscripten(source: str) -> Iterator[Emscripten | None]:
    """Node with the handler, up and waiting; None where node or npm is missing, or the
    package cannot be had.
    """
    entry = NPM_FOLDER / "node_modules" / "quickjs-emscripten" / "dist" / "index.js"
    if shutil.which("node") is None or not (entry.exists() or _install()):
        yield None
        return
    command = ["node", str(ROOT / "benchmarks" / "quickjs_emscripten.mjs"), str(entry), around(source)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Emscripten(process)
        assert process.stdin is not None
        process.stdin.close()


def _install() -> bool:
    if shutil.which("npm") is None:
        return False
    NPM_FOLDER.mkdir(parents=True, exist_ok=True)
    (NPM_FOLDER / "package.json").write_text('{"private": true}\n')
    package = f"quickjs-emscripten@{EMSCRIPTEN_VERSION}"
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent", package]
    return subprocess.run(command, cwd=NPM_FOLDER, stdout=subprocess.DEVNULL).returncode == 0
