"""An extension that was taken over: it does what each call says, in the main thread or in another one."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

from panels_gateway.extensions.extension import CallContext, Environment, Extension, method


class Probe(Extension):
    """Reads the file that the setting ``token`` names while it starts, as extensions may."""

    name = "probe"

    async def startup(self, environment: Environment) -> None:
        self._token = ""
        if token := environment.settings.get("token"):
            self._token = await asyncio.to_thread(Path(str(token)).read_text)
        if environment.settings.get("thread"):
            threading.Thread(target=threading.Event().wait, daemon=True).start()

    @method()
    async def token(self, context: CallContext) -> str:
        return self._token

    @method()
    async def attempt(self, context: CallContext, expression: str) -> Any:
        return evaluate(expression)

    @method()
    async def attempt_in_thread(self, context: CallContext, expression: str) -> Any:
        return await asyncio.to_thread(evaluate, expression)


def syscall(number: int, *arguments: int) -> int:
    """A system call without the wrapper that would get in its way."""
    result = int(ctypes.CDLL(None, use_errno=True).syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def evaluate(expression: str) -> Any:
    """What ``expression`` is worth, or the name of its error."""
    scope = {
        "os": os, "signal": signal, "socket": socket, "subprocess": subprocess, "Path": Path,
        "syscall": syscall, "gateway": os.getppid(),
    }  # fmt: skip
    try:
        return repr(eval(expression, scope))
    except Exception as exc:
        return type(exc).__name__
