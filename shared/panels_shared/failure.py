"""What a handler says of its failure to programs: a code, and details that belong to it.

Both come from untrusted code. The worker leaves out what is not in order and says so in the handler's log;
the gateway checks again what a worker claims.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError
from panels_shared.limits import MAX_HANDLER_CODE_CHARS, MAX_HANDLER_DETAILS_BYTES

#: What ``is_code`` accepts, in words for a message.
CODE_RULE: Final = (
    f"a letter and then at most {MAX_HANDLER_CODE_CHARS - 1} of the characters A-Z a-z 0-9 . _ : -"
)
#: The fields of an ERROR's ``details``.
CODE_FIELD: Final = "handlerCode"
DETAILS_FIELD: Final = "handlerDetails"

_CODE: Final = re.compile(rf"[A-Za-z][A-Za-z0-9._:-]{{0,{MAX_HANDLER_CODE_CHARS - 1}}}", re.ASCII)


def is_code(text: object) -> bool:
    """Whether ``text`` can be the code of a handler's failure."""
    return isinstance(text, str) and _CODE.fullmatch(text) is not None


def read_details(text: bytes) -> Any:
    """The value that ``text``, the JSON of a failure's details, holds.

    At most ``MAX_HANDLER_DETAILS_BYTES``, nested one level less than a value may be, because it is sent
    inside of an object. Raises ``InvalidJsonError``.
    """
    if len(text) > MAX_HANDLER_DETAILS_BYTES:
        raise InvalidJsonError(f"expected at most {MAX_HANDLER_DETAILS_BYTES} bytes, got {len(text)}")
    # in brackets, so that nesting is counted as it will be
    values = jsonvalue.decode(b"[" + text + b"]")
    if len(values) != 1:
        raise InvalidJsonError("expected one JSON value, got another number of them")
    return values[0]


def vetted(details: Mapping[str, Any]) -> dict[str, Any]:
    """``details`` of a failure as a worker tells them, without a code or details that no handler can have
    given.
    """
    found = dict(details)
    if not is_code(found.get(CODE_FIELD)):
        found.pop(CODE_FIELD, None)
        found.pop(DETAILS_FIELD, None)
    elif DETAILS_FIELD in found and len(jsonvalue.encode(found[DETAILS_FIELD])) > MAX_HANDLER_DETAILS_BYTES:
        del found[DETAILS_FIELD]
    return found
