"""Secrets: put in by name where they may go, and taken out of everything that comes back. Pure.

Scrubbing finds a secret as it is, in any URL encoding, in base64 of either alphabet at any offset inside a
larger text (as in Basic credentials), in hexadecimal and escaped for JSON. It does not find what a server has
encrypted, reversed or taken apart: a server that a secret is bound to is trusted with it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, unquote_plus

from panels_gateway.extensions.config import Secret, value_of
from panels_gateway.extensions.errors import CallFailedError, ErrorCode
from panels_gateway.extensions.http.policy import Rule, Target, parse_rules
from panels_shared.loglines import LineEncoder

#: Both alphabets, URL-encoded and JSON-escaped too.
_EITHER: Final = {"+": r"(?:[+-]|%2[bB])", "/": r"(?:\\?/|_|%2[fF])"}
_EDGE: Final = r"[A-Za-z0-9+/_-]?"
REFERENCE: Final = re.compile(r"\$secret:([A-Z][A-Z0-9_]{0,63})")


@dataclass(frozen=True, slots=True)
class BoundSecret:
    """A secret and where it may go. Its value shows in no representation."""

    name: str
    value: str = field(repr=False)
    origins: Sequence[Rule] = ()

    def may_go_to(self, target: Target) -> bool:
        """Whether an origin of the secret is the target."""
        return any(
            rule.takes(target)
            and (rule.holds(target.address) if target.address is not None else rule.names(target.host))
            for rule in self.origins
        )


class Vault:
    """The secrets by name. Raises ``ExtensionConfigError`` for one that cannot be used."""

    def __init__(self, secrets: Mapping[str, Secret]) -> None:
        self._secrets = {
            name: BoundSecret(
                name, value_of(name, secret), parse_rules(f"http.secrets.{name}.origins", secret.origins)
            )
            for name, secret in secrets.items()
        }
        self.scrubber = Scrubber(tuple(self._secrets.values()))

    def inject(self, text: str, target: Target) -> tuple[str, list[str]]:
        """``text`` with each ``$secret:NAME`` replaced, and their names. Raises ``CallFailedError``."""
        names: list[str] = []

        def replace(match: re.Match[str]) -> str:
            name = match[1]
            secret = self._secrets.get(name)
            if secret is None:
                raise CallFailedError(ErrorCode.DENIED, f"there is no secret {name}")
            if not secret.may_go_to(target):
                raise CallFailedError(
                    ErrorCode.DENIED,
                    f"the secret {name} may not go to {target.origin}; that line in "
                    f"http.secrets.{name}.origins of the extensions' configuration would allow it",
                )
            names.append(name)
            return secret.value

        return REFERENCE.sub(replace, text), names


class Scrubber:
    """Replaces secrets by ``[secret:NAME]``."""

    def __init__(self, secrets: Sequence[BoundSecret]) -> None:
        self._secrets = [(secret, _literals(secret.value), _base64(secret.value)) for secret in secrets]

    def text(self, text: str) -> str:
        """``text`` without secrets."""
        for secret, literals, encoded in self._secrets:
            mark = f"[secret:{secret.name}]"
            for form in literals:
                text = text.replace(form, mark)
            for core, whole in encoded:
                if core.search(
                    text
                ):  # begins with a letter that it looks for, and is fast; the whole does not
                    text = whole.sub(mark, text)
            # a cheap look first: the pattern for every spelling begins with nothing in
            # particular, and is slow
            if ("%" in text or "+" in text) and (
                secret.value in unquote(text) or secret.value in unquote_plus(text)
            ):
                text = _url_encoded(secret.value).sub(mark, text)
        return text

    def data(self, data: bytes) -> bytes:
        """``data`` without secrets; they are ASCII, so that the encoding of the rest does not matter."""
        return self.text(data.decode("latin-1")).encode("latin-1") if self._secrets else data

    def value(self, value: Any) -> Any:
        """A JSON value without secrets in its strings and keys, which escapes may have hidden in its text."""
        if not self._secrets:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {self.text(key): self.value(item) for key, item in value.items()}
        return value


class ScrubbingEncoder(LineEncoder):
    """For the log of the process that holds secrets: what a library or an extension logs loses them too."""

    def __init__(self, scrubber: Scrubber) -> None:
        super().__init__()
        self._scrubber = scrubber

    def clean(self, text: str) -> str:
        """``text`` without tokens and secrets."""
        return self._scrubber.text(super().clean(text))


def _literals(value: str) -> Sequence[str]:
    hexadecimal = value.encode().hex()
    forms = (value, json.dumps(value)[1:-1], value.replace("/", "\\/"), hexadecimal, hexadecimal.upper())
    return sorted(set(forms), key=len, reverse=True)


def _url_encoded(value: str) -> re.Pattern[str]:
    def spellings(char: str) -> str:
        plus = r"|\+" if char == " " else ""
        # encoded first: a "%" of the secret itself must not end the match in the middle of "%25"
        return f"(?:(?i:%{ord(char):02x})|{re.escape(char)}{plus})"

    return re.compile("".join(map(spellings, value)))


def _base64(value: str) -> Sequence[tuple[re.Pattern[str], re.Pattern[str]]]:
    """For each of three offsets, the part of the encoding that depends on nothing around it,
    and that with its edges.
    """
    patterns: list[tuple[re.Pattern[str], re.Pattern[str]]] = []
    for offset in range(3):
        padded = b"\0" * offset + value.encode()
        # characters that bytes before or after take part in are cut off, and matched as
        # any that may stand there
        start = (offset * 8 + 5) // 6
        end = len(padded) * 8 // 6
        core = base64.b64encode(padded + b"\0" * 3).decode()[start:end]
        pattern = "".join(_EITHER.get(char, char) for char in core)
        before = _EDGE if offset else ""
        after = _EDGE if len(padded) * 8 % 6 else ""
        patterns.append((re.compile(pattern), re.compile(before + pattern + after)))
    return patterns
