"""Modules of panels ABI v1 with every import there is, for attacks that call them all."""

from __future__ import annotations

from typing import Final

from panels_worker.guest import abi, wasi

_TYPES: Final = {"i": "i32", "I": "i64", "F": "f64"}
#: Where the text ``null`` lies, and how long it is: a value, a key and a name at once.
TEXT: Final = (16, 4)
#: Pages of a module's memory, and the first address behind them.
PAGES: Final = 2
END: Final = PAGES * 65_536


def imported(module: str, name: str, params: str, result: str) -> str:
    """One import, as ``$name``."""
    made = f'(import "{module}" "{name}" (func ${name}'
    if params:
        made += " (param " + " ".join(_TYPES[letter] for letter in params) + ")"
    if result:
        made += f" (result {_TYPES[result]})"
    return made + "))"


def wasi_import(name: str) -> str:
    """One import of WASI, as ``$name``."""
    return imported(wasi.MODULE, name, wasi.IMPORTS[name], "" if name == "proc_exit" else "i")


_PANELS: Final = "\n".join(
    imported(abi.MODULE, name, params, result) for name, (params, result) in abi.IMPORTS.items()
)
#: Writes a number from 0 to 9,999,999 as the job's result.
_NUMBER: Final = """
  (func $number (param $n i32)
    (local $at i32)
    (local.set $at (i32.const 2064))
    (loop $more
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
      (br_if $more (local.tee $n (i32.div_u (local.get $n) (i32.const 10)))))
    (call $result (local.get $at) (i32.sub (i32.const 2064) (local.get $at))))
"""


def module(
    body: str,
    *,
    fields: str = "",
    imports: str = "",
    alloc: str = "(i32.const 8192)",
    memory: str = f'(memory (export "memory") {PAGES})',
) -> dict[str, str]:
    """A handler in text whose entry does ``body``.

    ``$args``, ``$len`` are its arguments, ``$n`` and ``$m`` spare i32s, ``$number`` returns a number,
    ``fields`` more of the module, ``alloc`` the body of ``alloc``.
    """
    source = f"""(module {_PANELS} {imports}
  {memory}
  (data (i32.const {TEXT[0]}) "null")
  {_NUMBER} {fields}
  (func (export "alloc") (param $size i32) (result i32) {alloc})
  (func (export "resume") (param i64 i32 i32 i32) (result i32) (i32.const 0))
  (func (export "handle") (param $args i32) (param $len i32) (result i32)
    (local $n i32) (local $m i32)
    {body}
    (i32.const 0)))"""
    return {"language": "wat", "source": source}
