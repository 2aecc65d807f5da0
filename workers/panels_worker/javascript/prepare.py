"""Checks a script and makes its artifact, in the disposable compile child.

Which form a source has is for the engine to say: it is compiled as the body of a function and, where that
fails, as a module. When both fail, the error of the form that got further is the one that helps its author.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from wasmtime import Engine

from panels_shared.messages import Language, Refusal
from panels_shared.script_modules import decompose, language_of
from panels_worker.guest.effects import LimitReached
from panels_worker.guest.engine import make_engine
from panels_worker.guest.traps import GuestTrap, HostStop, InstantiationError, TrapKind
from panels_worker.javascript import forms
from panels_worker.javascript import script as scripts
from panels_worker.javascript.assets import QUICKJS, TRANSFORM
from panels_worker.javascript.compilation import compile_script, run_top_level
from panels_worker.javascript.flags import find_flag_v
from panels_worker.javascript.forms import refused_script
from panels_worker.javascript.guest import JavaScriptGuest, ScriptError, open_to_prepare
from panels_worker.javascript.namespaces import is_reopened
from panels_worker.javascript.script import Form, Script
from panels_worker.javascript.typescript import strip

_BYTE_ORDER_MARK = "\ufeff"


def prepare(language: Language, entry: str, source: bytes, engines: Mapping[str, bytes]) -> bytes | Refusal:
    """The artifact's payload, or why the handler is refused.

    ``engines`` are the serialized modules that the language needs, by name; the caller has authenticated
    them."""
    own, imported = decompose(source)
    texts = [_text(language, each) for each in (own, *(module for _, module in imported))]
    engine = make_engine()
    guest = JavaScriptGuest.load(engine, engines[QUICKJS])
    modules: tuple[Script, ...] = ()
    try:
        for text in texts:
            if isinstance(text, Refusal):
                return text
        for (name, _), text in zip(imported, texts[1:], strict=True):
            module = _module(name, str(text), modules, engine, engines, guest)
            if isinstance(module, Refusal):
                return module
            modules += (module,)
        made = _choose(language, str(texts[0]), entry or "default", engine, engines, guest, modules)
        return made if isinstance(made, Refusal) else _checked(made, guest)
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


def _text(language: Language, source: bytes) -> str | Refusal:
    try:
        text = source.decode().removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError:
        return Refusal("malformed", f"expected {language} in UTF-8")
    if "\0" in text:
        return Refusal("malformed", f"expected {language} without NUL characters")
    return text


def _module(
    name: str,
    text: str,
    before: tuple[Script, ...],
    engine: Engine,
    engines: Mapping[str, bytes],
    guest: JavaScriptGuest,
) -> Script | Refusal:
    """The module of that name, which may import those ``before`` it. A refusal begins with its name."""
    script = Script(text, text, Form.MODULE, name=name, modules=before)
    if language_of(name) == "typescript":
        stripped = strip(text, engine, engines[TRANSFORM], is_module=True)
        if isinstance(stripped, Refusal):
            return _of_module(name, stripped)
        script = msgspec.structs.replace(script, code=stripped[0], positions=stripped[1])
    compiled = forms.compiled(script, guest)
    if isinstance(compiled, Refusal):
        return _of_module(name, compiled)
    kept = msgspec.structs.replace(compiled, modules=())
    # a handler that does nothing but import it: its top level is held to the same rules as a handler's
    code = f'import "./{name}"; export default () => {{}}'
    checked = _checked(Script(code, code, Form.MODULE, modules=(*before, kept)), guest)
    return (
        _of_module(name, msgspec.structs.replace(checked, line=0)) if isinstance(checked, Refusal) else kept
    )


def _of_module(name: str, refusal: Refusal) -> Refusal:
    place = f":{refusal.line}:{refusal.column}" if refusal.line else ""
    return Refusal(refusal.code, f"{name}{place}: {refusal.message}")


def _choose(
    language: Language,
    text: str,
    entry: str,
    engine: Engine,
    engines: Mapping[str, bytes],
    guest: JavaScriptGuest,
    modules: tuple[Script, ...],
) -> Script | Refusal:
    """The script in the form that compiles, or the refusal of the form that got further."""
    refusals: dict[Form, Refusal] = {}
    stripped_forms: list[Form] = []
    for form in (Form.BODY, Form.MODULE):
        script = Script(text, text, form, entry=entry, modules=modules)
        if language == "typescript":
            stripped = strip(text, engine, engines[TRANSFORM], is_module=script.module)
            if isinstance(stripped, Refusal):
                if is_reopened(stripped):
                    return stripped
                refusals[form] = stripped
                continue
            stripped_forms.append(form)
            script = msgspec.structs.replace(script, code=stripped[0], positions=stripped[1])
        compiled = forms.compiled(script, guest)
        if not isinstance(compiled, Refusal):
            return compiled
        refusals[form] = compiled
    if len(stripped_forms) == 1:
        # the engine looked at one form only, so that one got further
        return refusals[stripped_forms[0]]
    return forms.further(refusals[Form.BODY], refusals[Form.MODULE], text)


def _checked(script: Script, guest: JavaScriptGuest) -> bytes | Refusal:
    """The payload of a script that parses, unless something that is wrong in it would only show when it
    runs.
    """
    flagged = find_flag_v(script, guest)
    if flagged is not None:
        return flagged
    try:
        for step in (run_top_level, compile_script) if script.module else (compile_script,):
            run = open_to_prepare(guest)
            try:
                step(run, script)
            finally:
                run.close()
    except ScriptError as error:
        return refused_script(error, script, guest)
    return scripts.encode(script)
