"""The gateway's HTTP API: a request, and its answer or a ``CommandError``. It holds no rule of any command.

Proxies and ``.netrc`` of the environment are left alone: a token goes to the gateway that was named, and to
nobody on the way. Certificates are checked against those of the system.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import httpx

from panels_cli.context import Context
from panels_cli.faults import RefusedError, UnreachableError, UsageError
from panels_shared import jsonvalue
from panels_shared.errors import CODES, Code, InvalidJsonError
from panels_shared.names import NAME_RULE, is_name

CONNECT_TIMEOUT_S: Final = 10.0
#: A gateway answers a trigger or says within ten seconds that it waits; a definition may take longer.
ANSWER_TIMEOUT_S: Final = 120.0
#: Bytes of an answer: more than the largest state, escaped.
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024

_HINTS: Final[Mapping[str, str]] = {
    Code.UNAUTHORIZED: "give a token by --token, PANELS_TOKEN or panels context add",
    Code.FORBIDDEN: "ask for a token that allows it",
    Code.PANEL_NOT_FOUND: "panels ls has those that your token may read",
    Code.TOOL_NOT_FOUND: "panels get PANEL has its tools",
    Code.HISTORY_GONE: "panels history PANEL has the versions that are left",
    Code.UNAVAILABLE: "panels doctor says why",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. ``value`` is its JSON, None without a body; header names are in lower case."""

    status: int
    value: Any
    headers: Mapping[str, str]
    text: str = ""


class Api:
    """Requests to one gateway. Close it, or use it as a context manager."""

    def __init__(self, context: Context, *, transport: httpx.BaseTransport | None = None) -> None:
        self._context = context
        self._client = httpx.Client(
            transport=transport,
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            verify=verification(context.url),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        key: str | None = None,
    ) -> Answer:
        """What the gateway answers with success. ``path`` begins with / and is encoded; ``body`` is JSON;
        ``key`` an idempotency key; parameters of ``query`` that are None are left out.

        Raises ``RefusedError``, ``UnreachableError``.
        """
        answer = self.look(method, path, query=query, body=body, key=key)
        if 200 <= answer.status < 300:
            return answer
        raise refusal(self._context.url, answer.status, answer.value)

    def look(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        key: str | None = None,
    ) -> Answer:
        """The same, whatever the status is. Raises ``UnreachableError``."""
        headers = {"accept": "application/json"}
        if self._context.token is not None:
            headers["authorization"] = f"Bearer {self._context.token}"
        if body is not None:
            headers["content-type"] = "application/json"
        sent: list[tuple[bytes, bytes]] = [(name.encode(), value.encode()) for name, value in headers.items()]
        if key is not None:
            sent.append((b"idempotency-key", key.encode()))
        text = urlencode({name: value for name, value in (query or {}).items() if value is not None})
        url = f"{self._context.url}{path}" + (f"?{text}" if text else "")
        with (
            self._reaching(),
            self._client.stream(method, url, headers=sent, content=body) as response,
        ):
            content = self._content(response)
        return self._taken(response, content)

    def text(self, path: str) -> str:
        """What the gateway answers with success as text, not as JSON. Raises ``RefusedError``,
        ``UnreachableError``.
        """
        headers = {"accept": "text/plain"}
        if self._context.token is not None:
            headers["authorization"] = f"Bearer {self._context.token}"
        url = f"{self._context.url}{path}"
        with self._reaching(), self._client.stream("GET", url, headers=headers) as response:
            content = self._content(response)
        if response.status_code != 200:
            raise refusal(self._context.url, response.status_code, self._taken(response, content).value)
        return content.decode(errors="replace")

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        url = self._context.url
        try:
            yield
        except httpx.ConnectError as exc:
            raise UnreachableError(
                f"{url} cannot be reached: {reason(exc)}; panels doctor says more"
            ) from None
        except httpx.TimeoutException:
            raise UnreachableError(f"{url} did not answer in time; panels doctor says more") from None
        except (httpx.TransportError, httpx.DecodingError) as exc:
            raise UnreachableError(f"{url} broke off the connection: {reason(exc)}") from None
        except httpx.InvalidURL as exc:
            raise UsageError(f"expected the URL of a gateway, got {url}: {exc}") from None

    def _content(self, response: httpx.Response) -> bytes:
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > MAX_ANSWER_BYTES:
                raise UnreachableError(
                    f"{self._context.url} answered with more than {MAX_ANSWER_BYTES} bytes; ask for less"
                )
        return bytes(content)

    def _taken(self, response: httpx.Response, content: bytes) -> Answer:
        is_json = response.headers.get("content-type", "").startswith("application/json")
        try:
            value = jsonvalue.decode(content) if content and is_json else None
        except InvalidJsonError as exc:
            raise UnreachableError(f"{self._context.url} answered with broken JSON: {exc.problem}") from None
        headers = {name.lower(): text for name, text in response.headers.items()}
        return Answer(response.status_code, value, headers, content.decode(errors="replace"))


def verification(url: str) -> ssl.SSLContext | bool:
    """How a server's certificate is checked: with the certificates of the system."""
    # reading them takes a while, so they are read only where they are needed
    return ssl.create_default_context() if url.startswith("https:") else False


def refusal(url: str, status: int, value: Any) -> RefusedError | UnreachableError:
    """The fault for an answer that is not success; ``value`` is the JSON of its body."""
    error = value.get("error") if isinstance(value, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("code"), str):
        return UnreachableError(f"{url} answered {status}, and not as a gateway does; check the URL")
    details = error.get("details")
    details = details if isinstance(details, dict) else {}
    return RefusedError(
        error["code"], str(error.get("message", "")), details, hint=hint(error["code"], details)
    )


def hint(code: str, details: Mapping[str, Any]) -> str:
    """What somebody can do about an error of this code, "" where its message says it."""
    wait_ms = details.get("retryAfterMs")
    if code in CODES and CODES[Code(code)].retryable and isinstance(wait_ms, (int, float)):
        return f"try again in {wait_ms / 1000:.3g} s"
    return _HINTS.get(code, "")


def reason(error: Exception) -> str:
    """What an error of the network says, in a few words."""
    text = str(error).strip().rstrip(".")
    return text[:160] or type(error).__name__


def panel_path(panel: str, *rest: str) -> str:
    """The path of a panel, or of something below it. Raises ``UsageError`` for what cannot be an id."""
    if not is_name(panel):
        raise UsageError(f"expected the id of a panel of {NAME_RULE}, got {panel[:64]!r}")
    return "/".join(["/panels", quote(panel, safe=""), *(quote(part, safe="") for part in rest)])
