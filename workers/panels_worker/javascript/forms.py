"""The forms that a source may have, as the engine takes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from panels_shared.messages import Refusal
from panels_worker.guest.effects import LimitReached
from panels_worker.guest.traps import GuestTrap, HostStop, InstantiationError
from panels_worker.javascript.compilation import compile_script, is_function, parse_module
from panels_worker.javascript.errors import refuse
from panels_worker.javascript.guest import JavaScriptGuest, ScriptError, open_to_prepare
from panels_worker.javascript.positions import end_of, find_error
from panels_worker.javascript.script import Form, Script

#: The fuel in which an expression that is a function has its value: there is next to nothing to run.
EXPRESSION_FUEL: Final = 50_000_000

#: Semicolons, from the end of a source, of which one may end such an expression; the others stand in a
#: comment.
MAX_SEMICOLONS: Final = 8

#: Only where there is this word can there be the operator; a function without it is cheaper when it is not
#: async.
_AWAIT = re.compile(r"\bawait\b")
#: What makes a module likelier than a body, when neither compiles and both stop at the same place.
_MODULE_WORD = re.compile(r"\b(?:export|import)\b")


def compiled(script: Script, guest: JavaScriptGuest) -> Script | Refusal:
    """``script`` completed with what the engine says about it, or why it does not compile in its form.

    A body with the word ``await`` may use it as an operator or, in old code, as a name: it is compiled as an
    async function first. A body that is one expression whose value is a function is that function."""
    if script.module:
        error = compile_error(script, guest)
        return script if error is None else refused_script(error, script, guest)
    is_async = _AWAIT.search(script.code) is not None
    script = msgspec.structs.replace(script, is_async=is_async)
    error = compile_error(script, guest)
    if error is not None and is_async:
        sync = msgspec.structs.replace(script, is_async=False)
        if compile_error(sync, guest) is None:
            script, error = sync, None
    expression = _expression(script, guest)
    if error is None or expression is not None:
        return expression or script
    return refused_script(error, script, guest)


def compile_error(script: Script, guest: JavaScriptGuest) -> ScriptError | None:
    """What the engine says about a body or a module when it parses it; nothing of it runs."""
    run = open_to_prepare(guest)
    try:
        if script.module:
            parse_module(run, script)
        else:
            compile_script(run, script, probe=True)
    except ScriptError as error:
        return error
    finally:
        run.close()
    return None


def _expression(script: Script, guest: JavaScriptGuest) -> Script | None:
    """The script as an expression whose value is a function; None when it is anything else."""
    for code in _without_semicolon(script.code):
        run = open_to_prepare(guest, fuel=EXPRESSION_FUEL)
        try:
            if is_function(run, code):
                return msgspec.structs.replace(script, code=code, form=Form.EXPRESSION, is_async=False)
        except (ScriptError, GuestTrap, HostStop, LimitReached, InstantiationError):
            continue
        finally:
            run.close()
    return None


def _without_semicolon(code: str) -> Iterator[str]:
    """``code``, which may end with a semicolon and a comment, without one of its last semicolons."""
    yield code
    at = len(code)
    for _ in range(MAX_SEMICOLONS):
        at = code.rfind(";", 0, at)
        if at < 0:
            return
        yield f"{code[:at]} {code[at + 1 :]}"


def further(body: Refusal, module: Refusal, text: str) -> Refusal:
    """The refusal of the form that got further in ``text``; where that is not to be told, of the likelier
    one.
    """
    likelier, other = (module, body) if _MODULE_WORD.search(text) else (body, module)
    if not likelier.line or not other.line:
        return likelier
    return other if (other.line, other.column) > (likelier.line, likelier.column) else likelier


def refused_script(error: ScriptError, script: Script, guest: JavaScriptGuest) -> Refusal:
    """Why a script is refused, with the column of what is wrong: the engine names the line, and a column
    before it.
    """
    refusal = refuse(error.name or "Error", error.message, error.stack, script)
    if error.name != "SyntaxError" or not refusal.line:
        return refusal
    if script.code == script.source and (refusal.line, refusal.column) == end_of(script.source):
        return refusal

    def error_of(code: str) -> str | None:
        try:
            found = compile_error(msgspec.structs.replace(script, code=code), guest)
        except (GuestTrap, HostStop, LimitReached, InstantiationError):
            return ""
        return None if found is None else found.message

    if script.code == script.source:
        line, column = find_error(script.source, error.message, error_of, line=refusal.line)
        found = (line, column) if line == refusal.line else (refusal.line, refusal.column)
    else:
        line, column = find_error(script.code, error.message, error_of)
        found = script.locate(line + script.header_lines, column) if line else (refusal.line, refusal.column)
    return _named(msgspec.structs.replace(refusal, line=found[0], column=found[1]), script)


def _named(refusal: Refusal, script: Script) -> Refusal:
    """``refusal`` in words, where what is wrong is something of the language that the engine does not
    have.
    """
    before = script.snippet(refusal.line)[: refusal.column - 1]
    rest = script.snippet(refusal.line)[refusal.column - 1 :]
    accessor = re.search(r"\baccessor\s+$", before)
    if rest.startswith("@"):
        return msgspec.structs.replace(refusal, message="SyntaxError: decorators are not available")
    if accessor is not None:
        return msgspec.structs.replace(
            refusal,
            message="SyntaxError: fields with `accessor` are not available",
            column=accessor.start() + 1,
        )
    return refusal
