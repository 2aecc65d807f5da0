"""JavaScript errors in the words of the handler's author: their own lines and columns, none of the
prelude's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from panels_shared import failure, jsonvalue
from panels_shared.errors import InvalidJsonError
from panels_shared.messages import Refusal
from panels_shared.outcome import Failed, Reason, Usage
from panels_worker.javascript.positions import end_of, find_name, find_pattern, find_read
from panels_worker.javascript.script import Script

#: What is kept of an error for the client.
MAX_MESSAGE_CHARS: Final = 2_048
MAX_FRAMES: Final = 16
MAX_NAME_CHARS: Final = 64

_FRAME = re.compile(
    r"^\s*at (?:(?P<name>.{0,200}?) )?\(?(?P<file><input>|[\w.-]{1,64})"
    r"(?::(?P<line>\d{1,7}))?(?::(?P<column>\d{1,7}))?\)?\s*$"
)
#: The first frame of what a function of the engine throws, such as ``Object.entries(null)``.
_NATIVE = re.compile(r"\s*at [^\n]{0,200}\(?native\)?\s*(?:\n|$)")
_SYNTAX_FRAME = re.compile(r"^\s*at [\w.<>-]{1,80}:(\d{1,7}):\d{1,7}\s*\n")
_NO_TIMERS: Final = "handlers have no timers, because a job ends when there is nothing left to run"
_NO_NETWORK: Final = "handlers reach nothing but their panel"
_NO_MODULES: Final = "handlers import the modules of their panel alone; bundle what else you need"
_NO_BROWSER: Final = "handlers do not run in a browser"
#: Why globals that other hosts have are not there.
_ABSENT: Final[Mapping[str, str]] = {
    **dict.fromkeys(("setTimeout", "setInterval", "setImmediate", "requestAnimationFrame"), _NO_TIMERS),
    **dict.fromkeys(("clearTimeout", "clearInterval", "clearImmediate"), _NO_TIMERS),
    **dict.fromkeys(("fetch", "XMLHttpRequest", "WebSocket", "EventSource"), _NO_NETWORK),
    **dict.fromkeys(("require", "module", "exports", "importScripts"), _NO_MODULES),
    **dict.fromkeys(("window", "document", "navigator", "location", "localStorage", "alert"), _NO_BROWSER),
    "Buffer": "handlers have Uint8Array, TextEncoder and TextDecoder instead",
    "URL": "handlers have no URL parser",
    "URLSearchParams": "handlers have no URL parser",
    "Intl": "the engine does not localise",
    "WebAssembly": "a handler in WebAssembly is a tool of its own",
}
_OUT_OF_MEMORY: Final = "out of memory"
_STACK_MESSAGES: Final = ("Maximum call stack size exceeded", "stack overflow")


class FailureReport(msgspec.Struct):
    """A thrown value as the prelude describes it; nothing of it is trusted."""

    name: str = "Error"
    message: str = ""
    stack: str = ""
    kind: str = ""
    path: str = ""
    code: str = ""
    details: str = ""
    problem: str = ""


def explain(report: FailureReport, script: Script, warn: Callable[[str], None] = lambda text: None) -> Failed:
    """The failure of a job whose handler threw. ``warn`` is told what is left out of it, and why."""
    name = report.name[:MAX_NAME_CHARS] or "Error"
    message = report.message[:MAX_MESSAGE_CHARS]
    frames = own_frames(report.stack, script)
    details: dict[str, object] = {"errorName": name}
    line = column = 0
    if not frames or not frames[0].module:
        # the engine records no positions for reads: at best it says which function it was
        at = frames[0] if frames else Frame("handler", 0, 0)
        place = find_read(script.source, message, at.line, at.column)
        if place is None and name == "ReferenceError":
            place = find_name(script.source, message, at.line, at.column)
        if place is None and name == "TypeError" and not _NATIVE.match(report.stack):
            found = find_pattern(script.source, message)
            if found is not None:
                place, message = found[:2], f"cannot take {found[2]} from null or undefined"
        if place is not None:
            frames[:1] = [Frame(at.function, *place)]
    if frames:
        details["stack"] = "\n".join(map(str, frames))
    own = next((frame for frame in frames if not frame.module), None)
    if own is not None:
        line, column = own.line, own.column
        details["snippet"] = script.snippet(line)
    reason = Reason.HANDLER_ERROR
    if name == "ReferenceError":
        message = _with_reason(message)
    text = f"{name}: {message}" if message else name
    if report.kind == "INVALID_RESULT":
        reason, text = Reason.INVALID_RESULT, message
        details["path"] = report.path[:256]
    elif report.kind == "PERMISSION_DENIED":
        reason, text = Reason.PERMISSION_DENIED, message
    elif name == "InternalError" and _OUT_OF_MEMORY in message:
        reason, text = Reason.MEMORY_LIMIT, "the handler ran out of memory"
    elif name in ("RangeError", "InternalError") and any(words in message for words in _STACK_MESSAGES):
        reason, text = Reason.STACK_OVERFLOW, "the handler's call stack is exhausted"
    if report.code and reason is Reason.HANDLER_ERROR:
        coded = _coded(report, warn)
        details.update(coded)
        if coded and name == "Error" and message:
            # an error with a code is for people too: they read its author's sentence, and no class
            text = message
    return Failed(Usage(), reason, text, line, column, jsonvalue.encode(details))


def _coded(report: FailureReport, warn: Callable[[str], None]) -> dict[str, object]:
    """What the error says to programs, as far as it is in order."""
    if not failure.is_code(report.code):
        warn(f"the code of the error was left out: expected {failure.CODE_RULE}")
        return {}
    found: dict[str, object] = {failure.CODE_FIELD: report.code}
    problem = report.problem[:MAX_MESSAGE_CHARS]
    if not problem and report.details:
        try:
            found[failure.DETAILS_FIELD] = failure.read_details(report.details.encode())
        except InvalidJsonError as exc:
            problem = f"details: {exc.problem}"
    if problem:
        warn(f"the details of the error were left out: {problem}")
    return found


def _with_reason(message: str) -> str:
    """The message about a global that other hosts have, with the reason why it is not there."""
    global_name, _, rest = message.partition(" ")
    reason = _ABSENT.get(global_name, "") if rest == "is not defined" else ""
    return f"{message}: {reason}" if reason else message


def refuse(name: str, message: str, stack: str, script: Script) -> Refusal:
    """Why a script does not compile."""
    frames = [frame for frame in own_frames(stack, script) if not frame.module]
    line, column = (frames[0].line, frames[0].column) if frames else (0, 0)
    lines = script.code.split("\n")
    place = _SYNTAX_FRAME.search(stack) if name == "SyntaxError" and script.code == script.source else None
    if place is not None:
        own = int(place[1]) - script.header_lines
        if own > len(lines) or (own == len(lines) and not lines[-1].strip()):
            # the engine read on behind the end
            line, column = end_of(script.source)
    return Refusal("syntax", f"{name}: {message}"[:MAX_MESSAGE_CHARS], line, column)


class Frame(NamedTuple):
    """A place of the handler's source, or of a module that it imports, by its name."""

    function: str
    line: int
    column: int
    module: str = ""

    def __str__(self) -> str:
        file = f"{self.module}:" if self.module else ""
        return f"    at {self.function} ({file}{self.line}:{self.column})"


def own_frames(stack: str, script: Script) -> list[Frame]:
    """The frames of the handler and of what it imports; at most ``MAX_FRAMES``, the innermost first."""
    own = script.name if script.module else "<input>"
    modules = {module.name: module for module in script.modules}
    frames: list[Frame] = []
    for text in stack.split("\n")[:200]:
        match = _FRAME.match(text)
        if match is None or match["line"] is None:
            continue
        file = match["file"]
        found = script if file == own else modules.get(file)
        if found is None:
            continue
        line, column = found.locate(int(match["line"]), int(match["column"] or 1))
        if line:
            name = match["name"] or "handler"
            function = "handler" if name in ("anonymous", "<anonymous>") else name[:80]
            if found is not script and function == "handler":
                function = "module"
            frames.append(Frame(function, line, column, "" if found is script else file))
        if len(frames) >= MAX_FRAMES:
            break
    return frames
