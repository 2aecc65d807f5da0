"""Regular expressions with the flag ``v``, which the engine compiles and then matches wrongly."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from panels_shared.messages import Refusal
from panels_worker.javascript.compilation import as_body
from panels_worker.javascript.forms import compile_error
from panels_worker.javascript.guest import JavaScriptGuest
from panels_worker.javascript.script import Form, Script

#: What may be the end of a literal with the flag; whether it is one, the engine says.
_CANDIDATE = re.compile(r"/[dgimsuy]*v[dgimsuy]*(?![\w$])")
#: Candidates that are looked at one by one.
MAX_CANDIDATES: Final = 64
_TWICE: Final = "v"
_MESSAGE: Final = (
    "SyntaxError: the regular expression flag v is not available, because the engine gets it wrong; use u"
)


def find_flag_v(script: Script, guest: JavaScriptGuest) -> Refusal | None:
    """The refusal of a script, which compiles, that has a literal with the flag ``v``; None when there is no
    such literal.

    A flag that stands twice is an error, and nothing else is that ends like a literal: not a division by
    ``v``, nor words in strings, comments and other regular expressions. So the candidates are those that no
    longer compile then."""
    ends = [match.end() for match in _CANDIDATE.finditer(script.code)]
    if not ends or _compiles(script, ends, guest):
        return None
    for end in ends[:MAX_CANDIDATES]:
        if not _compiles(script, [end], guest):
            start = script.code.rindex("/", 0, end)
            line = script.code.count("\n", 0, start) + 1
            column = start - script.code.rfind("\n", 0, start)
            found = script.locate(line + script.header_lines, column)
            return Refusal("syntax", _MESSAGE, *found)
    return Refusal("syntax", _MESSAGE)


def _compiles(script: Script, ends: list[int], guest: JavaScriptGuest) -> bool:
    """Whether the script still compiles with one more ``v`` at each of ``ends``."""
    code = script.code
    for end in reversed(ends):
        code = code[:end] + _TWICE + code[end:]
    if script.form is Form.EXPRESSION:
        script = msgspec.structs.replace(script, form=Form.BODY)
        code = as_body(code)
    return compile_error(msgspec.structs.replace(script, code=code), guest) is None
