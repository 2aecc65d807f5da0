"""Checks a script and makes its artifact, in the disposable compile child."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from panels_shared.messages import Language, Refusal
from panels_worker.guest.effects import LimitReached
from panels_worker.guest.engine import make_engine
from panels_worker.guest.traps import GuestTrap, HostStop, InstantiationError, TrapKind
from panels_worker.javascript import script as scripts
from panels_worker.javascript.engines import QUICKJS, TRANSFORM
from panels_worker.javascript.errors import refuse
from panels_worker.javascript.guest import JavaScriptGuest, ScriptError
from panels_worker.javascript.positions import end_of, find_error
from panels_worker.javascript.script import Script

#: A module is what has an import or export at the start of a line; everything else is a function's body.
_MODULE = re.compile(
    r"^\s*(?:export\s+(?:default\b|async\b|function\b|const\b|let\b|class\b|\{|\*)|import\s*[\w{*\"'])",
    re.MULTILINE,
)
_AWAIT = re.compile(r"\bawait\b")


def prepare(language: Language, entry: str, source: bytes, engines: Mapping[str, bytes]) -> bytes | Refusal:
    """The artifact's payload, or why the handler is refused. ``engines`` are the serialized modules that the language
    needs, by name (``engines``); the caller has authenticated them."""
    try:
        text = source.decode()
    except UnicodeDecodeError:
        return Refusal("malformed", f"expected {language} in UTF-8")
    if "\0" in text:
        return Refusal("malformed", f"expected {language} without NUL characters")
    engine = make_engine()
    code: str = text
    positions: tuple[tuple[int, int, int, int], ...] = ()
    is_module = _MODULE.search(_blanked(text)) is not None
    if language == "typescript":
        from panels_worker.javascript.typescript import strip

        stripped = strip(text, engine, engines[TRANSFORM], is_module=is_module)
        if isinstance(stripped, Refusal):
            return stripped
        code, positions = stripped
    script = Script(code, text, is_module, _AWAIT.search(code) is not None, entry or "default", positions)
    guest = JavaScriptGuest.load(engine, engines[QUICKJS])
    try:
        check(script, guest)
    except ScriptError as error:
        return _placed(
            refuse(error.name or "Error", error.message, error.stack, script), error.message, script, guest
        )
    except GuestTrap as trap:
        if trap.kind in (TrapKind.FUEL, TrapKind.INTERRUPT):
            return Refusal(
                "too_costly", "expected a handler that compiles quickly; its top level runs for too long"
            )
        return Refusal(
            "too_costly", f"expected a handler that compiles, got one that the engine cannot: {trap.text}"
        )
    except (HostStop, LimitReached, InstantiationError) as exc:
        return Refusal("too_costly", f"expected a handler that compiles: {exc}")
    return scripts.encode(script)


def check(script: Script, guest: JavaScriptGuest) -> None:
    """Compiles the script in a guest, and runs the top level of a module. Raises what ``compile_script`` raises."""
    from panels_worker.javascript.program import compile_script, open_to_prepare, run_top_level

    if script.module:
        run = open_to_prepare(guest)
        try:
            run_top_level(run, script)
        finally:
            run.close()
    run = open_to_prepare(guest)
    try:
        compile_script(run, script, probe=True)
    finally:
        run.close()


def compile_only(script: Script, guest: JavaScriptGuest) -> None:
    """Compiles the script in a guest. Raises what ``compile_script`` raises, but nothing that the top level of a module throws."""
    from panels_worker.javascript.program import compile_script, open_to_prepare

    run = open_to_prepare(guest)
    try:
        if script.module:
            run.evaluate_module(script.code.encode(), Script.MODULE_NAME.encode())
        else:
            compile_script(run, script, probe=True)
    finally:
        run.close()


def _placed(refusal: Refusal, message: str, script: Script, guest: JavaScriptGuest) -> Refusal:
    """``refusal`` with the column of what is wrong: the engine names the line, and the column of something before it."""
    if script.positions or script.code != script.source or not refusal.line:
        return refusal
    if (refusal.line, refusal.column) == end_of(script.source):
        return refusal

    def error_of(source: str) -> str | None:
        if script.module:
            # its top level is compiled, and not run
            source = f"throw 0;{source}"
        try:
            compile_only(msgspec.structs.replace(script, code=source), guest)
        except ScriptError as error:
            return error.message
        except (GuestTrap, HostStop, LimitReached, InstantiationError):
            return ""
        return None

    line, column = find_error(script.source, message, error_of, line=refusal.line)
    return msgspec.structs.replace(refusal, column=column) if line == refusal.line else refusal


def _blanked(text: str) -> str:
    """``text`` with comments and plain strings blanked out, so that words in them do not count. Good enough to tell the
    two forms apart; what is wrong with the script itself the engine says."""
    return re.sub(
        r"//[^\n]*|/\*.*?\*/|`(?:\\.|[^`\\])*`",
        lambda match: re.sub(r"[^\n]", " ", match[0]),
        text,
        flags=re.DOTALL,
    )
