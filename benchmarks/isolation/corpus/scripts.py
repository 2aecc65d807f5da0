"""Every hostile script of the tests: what JSON cannot hold, excess, code from strings, tampering."""

from __future__ import annotations

import secrets
from typing import Final

from benchmarks.isolation.attack import RETURNED, STOPPED, UNCHECKED, Attack, Call, attack, call
from tests.support.hostile_scripts import EXCESS, MAKERS, PLACES, SPECIFIERS, TAMPERING, TOP_LEVELS, UNFIT

FAMILY: Final = "scripts"
_ALL: Final = ("state:read:*", "state:write:*", "events:emit:*", "view:update:*")
_FUEL: Final = {"fuel": 1_500_000_000}

#: What a script must not find, as expressions that say which of it is there.
ABSENT: Final = {
    "the outside": "['require','module','window','fetch','XMLHttpRequest','WebSocket','Worker','std','os','bjson','print','load','scriptArgs','importScripts','Deno','Bun','WebAssembly','setTimeout','setInterval','navigator'].filter((n) => typeof globalThis[n] !== 'undefined').join()",
    "a process's environment": "Reflect.ownKeys(process).join() + Reflect.ownKeys(process.env).join() + process.env.NODE_ENV === 'envNODE_ENVproduction' ? '' : 'more'",
    "a second clock": "new Set(Array.from({ length: 1000 }, () => performance.now())).size === 1 && performance.now() === 0 ? '' : 'it moves'",
    "a second thread": "typeof Worker + typeof globalThis.Atomics?.waitAsync === 'undefinedundefined' ? '' : 'one'",
    "another global object": "globalThis === global && globalThis === self ? '' : 'another'",
    "clocks": "new Set(Array.from({ length: 1000 }, () => Date.now() + ':' + $time.now() + ':' + new Date().getTime())).size === 1 ? '' : 'a clock that moves'",
    "what is left of others": "Object.getOwnPropertyNames(globalThis).filter((n) => n.startsWith('leak')).join()",
    "inner things": "Reflect.ownKeys($state).concat(Reflect.ownKeys($emit)).map(String).filter((n) => /host|native|pointer|memory/i.test(n)).join()",
}  # fmt: skip


def attacks() -> list[Attack]:
    """The family."""
    made = [
        attack(FAMILY, f"what JSON cannot hold: {place}", _unfit(place), state={"list": [0]})
        for place in PLACES
    ]
    made.append(
        attack(
            FAMILY,
            "excess",
            [call(source[:60], f"$state.a = 1; {source};", *STOPPED, limits=_FUEL) for source, _ in EXCESS],
        )
    )
    made.append(
        attack(
            FAMILY,
            "code from strings",
            [call(maker, f"return {maker};", "HANDLER_ERROR") for maker in MAKERS]
            + [call(f"kept {maker}", f"export default () => {maker};", "HANDLER_ERROR") for maker in MAKERS],
        )
    )
    made.append(attack(FAMILY, "imports", _imports()))
    made.append(
        attack(
            FAMILY,
            "top levels that touch a job",
            [call(source, f"{source}\nexport default () => $state.n;", "refused:*") for source in TOP_LEVELS],
        )
    )
    made.append(attack(FAMILY, "tampering with the language", _tampering(), commits=True))
    made.append(
        attack(
            FAMILY,
            "what must not be there",
            [call(name, f"return {source};", RETURNED, returns="") for name, source in ABSENT.items()],
        )
    )
    return made


def _unfit(place: str) -> list[Call]:
    statement = PLACES[place][0]
    return [
        call(
            expression,
            f"let made = {expression}; {statement};",
            "INVALID_RESULT",
            capabilities=_ALL,
            limits={"fuel": 10**9},
        )
        for expression in UNFIT
    ]


def _imports() -> list[Call]:
    made = [
        call(f"import('{name}')", f"return await import('{name}');", "HANDLER_ERROR") for name in SPECIFIERS
    ]
    made += [
        call(f"import '{name}'", f"import '{name}';\nexport default () => 1;", "refused:*")
        for name in SPECIFIERS
    ]
    return made  # fmt: skip


def _tampering() -> list[Call]:
    """Each spoils the language for itself; the script after it must find nothing of that."""
    found: list[Call] = []
    sound = "const o = { leak: ({}).leak ?? null, a: [1, '2'] }; return JSON.stringify(o);"
    for step in TAMPERING:
        mark = secrets.token_hex(4)
        hostile = (
            f"/* {mark} */ try {{ {step}; }} catch {{}}\nglobalThis.leak{mark} = 1; return [1, {{ a: 'x' }}];"
        )
        found.append(call(step, hostile, RETURNED, *STOPPED, returns=UNCHECKED))
        found.append(
            call(f"after {step}", f"/* {mark} */ {sound}", RETURNED, returns='{"leak":null,"a":[1,"2"]}')
        )
    return found
