"""Which gateway is spoken to, and as whom: contexts, and the file that keeps them. Pure.

    current = "local"

    [contexts.local]
    url = "http://127.0.0.1:3001"
    token = "eyJ…"

A URL or a token is taken from the command line, else from ``PANELS_URL`` and ``PANELS_TOKEN``, else from the
context. The token of a context goes to the URL of the same context and nowhere else: who names another URL
has to give its token too.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from panels_cli.faults import UsageError
from panels_shared.names import NAME_RULE, is_name

DEFAULT_URL: Final = "http://127.0.0.1:3001"
#: Characters of a URL and of a token; what is longer is a mistake.
MAX_URL_CHARS: Final = 2_048
MAX_TOKEN_CHARS: Final = 8_192
#: Bytes of the file, and contexts in it.
MAX_FILE_BYTES: Final = 1024 * 1024
MAX_CONTEXTS: Final = 256

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Context:
    """A gateway's base URL, without a slash at its end, and the token to show it, None for none."""

    url: str
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Contexts:
    """What the file holds: contexts by name, and the name of the one in use, None for none."""

    by_name: Mapping[str, Context] = field(default_factory=dict[str, Context])
    current: str | None = None

    def add(self, name: str, context: Context) -> Contexts:
        """With ``context`` under ``name``, which is in use if it is the first one. Raises ``UsageError``."""
        if not is_name(name):
            raise UsageError(f"expected the name of a context of {NAME_RULE}, got {name[:64]!r}")
        if len(self.by_name) >= MAX_CONTEXTS and name not in self.by_name:
            raise UsageError(f"expected at most {MAX_CONTEXTS} contexts; remove one: panels context rm NAME")
        return replace(self, by_name={**self.by_name, name: context}, current=self.current or name)

    def use(self, name: str) -> Contexts:
        """With the context ``name`` in use. Raises ``UsageError``."""
        self.find(name)
        return replace(self, current=name)

    def remove(self, name: str) -> Contexts:
        """Without the context ``name``; if it was in use, none is. Raises ``UsageError``."""
        self.find(name)
        rest = {other: context for other, context in self.by_name.items() if other != name}
        return Contexts(rest, None if self.current == name else self.current)

    def find(self, name: str) -> Context:
        """The context of that name. Raises ``UsageError``."""
        found = self.by_name.get(name)
        if found is None:
            known = ", ".join(sorted(self.by_name)) or "none yet"
            raise UsageError(f"expected a context ({known}), got {name[:64]!r}; panels context add makes one")
        return found


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a command speaks to, and where the URL and the token came from, in words."""

    context: Context
    url_from: str
    token_from: str


def check_url(text: str) -> str:
    """``text`` as a base URL, without the slash at its end. Raises ``UsageError``."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good, parts = False, urlsplit("")
    if not good or len(text) > MAX_URL_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"expected the URL of a gateway, like {DEFAULT_URL}, got {text[:128]!r}")
    if parts.query or parts.fragment or parts.username is not None:
        raise UsageError("expected a URL without a query, a fragment or a user; give the token by --token")
    return text.rstrip("/")


def check_token(text: str) -> str:
    """``text`` without white space around it, as a token. Raises ``UsageError``, which never quotes it."""
    token = text.strip()
    if not 1 <= len(token) <= MAX_TOKEN_CHARS or _TOKEN.fullmatch(token) is None:
        raise UsageError(
            f"expected a token of 1 to {MAX_TOKEN_CHARS} characters like eyJ….eyJ….abc, "
            "got something else; panels token makes one for development"
        )
    return token


def choose(
    contexts: Contexts,
    environment: Mapping[str, str],
    *,
    name: str | None = None,
    url: str | None = None,
    token: str | None = None,
) -> Target:
    """Whom to speak to: ``name``, ``url`` and ``token`` are from the command line. Raises ``UsageError``."""
    named = name or contexts.current
    context = contexts.find(named) if named is not None else None
    origin = f"context {named}"
    # an explicit --context outweighs what lies in the environment
    from_environment = {} if name else environment
    given_url, url_from = _first((url, "--url"), (from_environment.get("PANELS_URL"), "PANELS_URL"))
    given_token, token_from = _first(
        (token, "--token"), (from_environment.get("PANELS_TOKEN"), "PANELS_TOKEN")
    )
    if given_url is not None:
        chosen_url = check_url(given_url)
    elif context is not None:
        chosen_url, url_from = context.url, origin
    else:
        chosen_url, url_from = DEFAULT_URL, "default"
    if given_token is not None:
        return Target(Context(chosen_url, check_token(given_token)), url_from, token_from)
    if context is not None and context.token is not None and context.url == chosen_url:
        return Target(Context(chosen_url, context.token), url_from, origin)
    return Target(Context(chosen_url), url_from, "none")


def _first(*offers: tuple[str | None, str]) -> tuple[str | None, str]:
    return next(((value, where) for value, where in offers if value), (None, ""))


# -- the file ----------------------------------------------------------------------------------------


def parse(text: str, *, where: str) -> Contexts:
    """The contexts that ``text`` (TOML) holds; ``where`` names the file. Raises ``UsageError``."""
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{where}: expected TOML: {exc}") from None
    tables: Any = value.get("contexts", {})
    if set(value) - {"current", "contexts"} or not isinstance(tables, dict):
        raise UsageError(f"{where}: expected current and tables [contexts.NAME], got something else")
    contexts = Contexts()
    for name, table in tables.items():
        if not isinstance(table, dict) or set(table) - {"url", "token"} or not _are_texts(table):
            raise UsageError(f"{where}: contexts.{name}: expected url and token, got something else")
        if "url" not in table:
            raise UsageError(f"{where}: contexts.{name}: expected a url, got none")
        token = table.get("token")
        try:
            context = Context(check_url(table["url"]), None if token is None else check_token(token))
            contexts = contexts.add(name, context)
        except UsageError as exc:
            raise UsageError(f"{where}: contexts.{name}: {exc}") from None
    current = value.get("current")
    if current is not None and current not in contexts.by_name:
        raise UsageError(f"{where}: current: expected the name of a context, got {str(current)[:64]!r}")
    return Contexts(contexts.by_name, current)


def written(contexts: Contexts) -> str:
    """The file's text, which ``parse`` reads back."""
    lines = [] if contexts.current is None else [f"current = {_quoted(contexts.current)}", ""]
    for name, context in sorted(contexts.by_name.items()):
        lines += [f"[contexts.{_quoted(name)}]", f"url = {_quoted(context.url)}"]
        lines += [] if context.token is None else [f"token = {_quoted(context.token)}"]
        lines.append("")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    # names, URLs and tokens are printable ASCII, for which JSON and TOML have the same strings
    return json.dumps(text)


def _are_texts(table: Mapping[str, object]) -> bool:
    return all(isinstance(value, str) for value in table.values())
