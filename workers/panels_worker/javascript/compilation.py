"""Compiling a script in a guest, each form in its own way."""

from __future__ import annotations

from panels_worker.javascript.guest import GuestRun
from panels_worker.javascript.script import EXPRESSION_CLOSING, EXPRESSION_OPENING, Form, Script


def compile_script(run: GuestRun, script: Script, *, probe: bool = False) -> tuple[int, int]:
    """Compiles the handler, and returns handles to main and finish. ``probe`` means it is not yet known to
    compile.

    Raises ``ScriptError`` for what is wrong in the handler, and ``GuestTrap`` for one that is too costly.
    """
    places = run.places
    world = places.world
    source = script.code.encode()
    evaluate_modules(run, script)
    match script.form:
        case Form.MODULE:
            namespace = run.evaluate_module(source, script.name.encode())
            run.call(b"execute_pending_jobs")
            run.invoke(run.property(world, b"module"), run.property(namespace, script.entry.encode()))
        case Form.EXPRESSION:
            run.invoke(run.property(world, b"expression"), run.new_string(as_body(script.code).encode()))
        case Form.BODY:
            arguments = run.new_string(source), run.call(b"new_bool", 1 if script.is_async else 0)
            run.invoke(run.property(world, b"body"), *arguments)
            if probe:
                run.invoke(run.property(world, b"probe"), *arguments)
    return places.main, places.finish


def evaluate_modules(run: GuestRun, script: Script) -> None:
    """Evaluates what the script imports, so that the engine finds it by its name. Raises ``ScriptError``."""
    for module in script.modules:
        run.evaluate_module(module.code.encode(), module.name.encode())
        run.call(b"execute_pending_jobs")


def as_body(expression: str) -> str:
    """The body of a function that returns the value of ``expression``."""
    return EXPRESSION_OPENING + expression + EXPRESSION_CLOSING


def run_top_level(run: GuestRun, script: Script) -> None:
    """Runs the top level of a module, whose handler is not kept, to hear what it throws; ``compile_script``
    does not.

    Raises ``ScriptError`` for that, and for a promise that the top level leaves rejected.
    """
    world = run.places.world
    evaluate_modules(run, script)
    run.invoke(
        run.property(world, b"watch"),
        run.evaluate_module_async(script.code.encode(), script.name.encode()),
    )
    run.drain()
    run.invoke(run.property(world, b"watched"))


def parse_module(run: GuestRun, script: Script) -> None:
    """Parses and links a module without running its top level. Raises ``ScriptError``."""
    evaluate_modules(run, script)
    run.evaluate_module(f"throw 0;{script.code}".encode(), script.name.encode())


def is_function(run: GuestRun, code: str) -> bool:
    """Whether ``code`` is one expression whose value is a function. Runs it, in an instance that serves no
    job.

    Raises ``ScriptError`` for code that is no expression, or one that throws.
    """
    world = run.places.world
    answer = run.invoke(run.property(world, b"isFunction"), run.new_string(as_body(code).encode()))
    return run.truth(answer)
