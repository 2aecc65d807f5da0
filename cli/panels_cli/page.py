"""The page of `panels up`: a panel's state and events, live in a browser, and a form that calls its tools.

It is served on 127.0.0.1 below a path that nobody can guess, because what stands there has a token: whoever
was given the link may do what whoever started `up` may. Threads: one that accepts, one for each request; a
request that does not come within ``REQUEST_TIMEOUT_S`` is dropped.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, Final

REQUEST_TIMEOUT_S: Final = 5.0
_FILES: Final = {"": ("page.html", "text/html"), "page.js": ("page.js", "text/javascript")}
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; "
    "connect-src 'self' ws://127.0.0.1:*; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Page:
    """The server. ``describe`` says what the page connects to, as JSON; it is called in other threads."""

    def __init__(self, describe: Callable[[], dict[str, Any]]) -> None:
        self._key = secrets.token_urlsafe(12)
        self._describe = describe
        page = self

        class Request(BaseHTTPRequestHandler):
            timeout = REQUEST_TIMEOUT_S

            def do_GET(self) -> None:
                found = page.find(self.path)
                content, kind = found or (b"there is nothing here\n", "text/plain")
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                for name, value in _HEADERS.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
                """Says nothing: the path is a secret."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Says nothing: a browser that hangs up is no news."""

        self._server = Server(("127.0.0.1", 0), Request)
        self._thread = threading.Thread(target=self._server.serve_forever, name="page", daemon=True)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"

    def link(self, panel: str) -> str:
        """What to click to see a panel, whose id is a name."""
        return f"{self.origin}/{self._key}/#{panel}"

    def find(self, path: str) -> tuple[bytes, str] | None:
        """The content at a path and its type, None where there is nothing."""
        _, _, rest = path.partition("/")
        key, _, name = rest.partition("/")
        if not hmac.compare_digest(key.encode(), self._key.encode()):
            return None
        if name == "panels.json":
            return json.dumps(self._describe()).encode(), "application/json"
        if name not in _FILES:
            return None
        file, kind = _FILES[name]
        return (resources.files("panels_cli") / "templates" / file).read_bytes(), kind

    def start(self) -> None:
        """Begins to serve. Called once no program is to be started any more: a thread and a fork do not go
        together.
        """
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
