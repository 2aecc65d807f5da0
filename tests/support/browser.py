"""A real Chromium, driven over its DevTools protocol.

Tests skip where there is none, and fail there if ``CI_TOOLCHAIN`` is set.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.sync.client import ClientConnection, connect

#: How long anything may take: a machine that is busy with other tests starts a browser slowly.
PATIENCE_S: Final = 60.0


def chromium() -> str:
    """Where it is. Skips or fails the test where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (found := shutil.which(name)) is not None:
            return found
    if os.environ.get("CI_TOOLCHAIN"):
        pytest.fail("expected Chromium on PATH, found none; install it: apt-get install chromium")
    pytest.skip("there is no Chromium on PATH")


class Browser:
    """The process and its one connection. Not for several threads."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._tabs: dict[str, Tab] = {}

    def send(self, method: str, session: str | None = None, **params: Any) -> Any:
        """Calls a method and returns its result. Events that come meanwhile go to their tabs."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        self._connection.send(json.dumps(message if session is None else {**message, "sessionId": session}))
        while True:
            answer = json.loads(self._connection.recv(timeout=PATIENCE_S))
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            if (tab := self._tabs.get(answer.get("sessionId", ""))) is not None:
                tab.take(answer)

    def open(self, url: str, *, width: int = 1280, height: int = 800) -> Tab:
        """A tab with a profile of its own, as another person has."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.send(f"{domain}.enable")
        tab.resize(width, height)
        tab.go(url)
        return tab


class Tab:
    """``problems`` is what went wrong on the page: exceptions, errors of the console, and refused loads."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.problems: list[str] = []

    def send(self, method: str, **params: Any) -> Any:
        """As ``Browser.send``, in this tab."""
        return self._browser.send(method, self._session, **params)

    def take(self, event: dict[str, Any]) -> None:
        """Notes what an event says that went wrong."""
        params = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def go(self, url: str) -> None:
        """Loads another page."""
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def resize(self, width: int, height: int) -> None:
        """The size of the page, in CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, or what its promise comes to. Fails the test when it throws."""
        found = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, (expression, found["exceptionDetails"])
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """The value of an expression once it is true. Fails the test if that takes ``PATIENCE_S``."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if found := self.evaluate(expression):
                return found
            time.sleep(0.05)
        page = self.evaluate("document.body.innerText")
        pytest.fail(f"expected {expression} to become true; the page says {page!r}, {self.problems}")

    def type(self, selector: str, text: str) -> None:
        """Types into a field, as a keyboard would, and presses Enter."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.send("Input.insertText", text=text)
        self.press("Enter")

    def press(self, key: str) -> None:
        """A key of the keyboard: ``Enter``, ``Tab`` or a space."""
        texts = {"Enter": "\r", " ": " "}
        codes = {"Enter": 13, "Tab": 9, " ": 32}
        common = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]}
        if key in texts:
            self.send("Input.dispatchKeyEvent", type="keyDown", text=texts[key], **common)
        else:
            self.send("Input.dispatchKeyEvent", type="rawKeyDown", **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def mouse(self, *steps: tuple[str, float, float]) -> None:
        """Moves and presses the mouse: (``mousePressed``, ``mouseMoved`` or ``mouseReleased``, x, y)."""
        for kind, x, y in steps:
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """What is seen, as a PNG file."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def running_browser(folder: Path) -> Iterator[Browser]:
    """A browser without a window, whose profile is in ``folder``."""
    profile = folder / "chromium"
    profile.mkdir()
    # its own sandbox needs namespaces that containers do not give; what it loads here is ours
    command = [chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={profile}", "--remote-debugging-port=0", "--no-first-run", "about:blank"]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        port_file, end = profile / "DevToolsActivePort", time.monotonic() + PATIENCE_S
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert process.poll() is None, (folder / "chromium.log").read_text()
            assert time.monotonic() < end, "Chromium does not say where it listens"
            time.sleep(0.05)
        port, path = port_file.read_text().split()
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as connection:
            yield Browser(connection)
    finally:
        process.kill()
        process.wait()
