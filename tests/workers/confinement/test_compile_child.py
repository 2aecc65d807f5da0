"""A compile child that was taken over reaches nothing: no file, no socket, no process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from panels_shared import landlock
from panels_worker.confinement import compile_child
from panels_worker.confinement.compile_child import lock_in
from panels_worker.confinement.confinement import ConfinementError

#: Does what ``compile.main`` does before it looks at a handler, and then what an attacker would.
ATTACK = """
import json, os, socket, sys
from panels_worker.compiling.compile import prepare
from panels_worker.confinement.compile_child import lock_in

prepare(sys.argv[1])
lock_in("strict", int(sys.argv[2]), int(sys.argv[3]))
found = {}

def attempt(what, act):
    try:
        act()
        found[what] = "done"
    except OSError as exc:
        found[what] = type(exc).__name__

attempt("a file", lambda: open("/etc/passwd").read())
attempt("a key", lambda: open(sys.argv[4]).read())
attempt("a new file", lambda: open("/tmp/panels-compile-child", "x"))
attempt("a folder", lambda: os.listdir("/"))
attempt("a program", lambda: os.execv("/bin/true", ["true"]))
attempt("a connection", lambda: socket.socket().connect((b"127.0.0.1", int(sys.argv[5]))))
attempt("the pool's memory", lambda: open(f"/proc/{os.getppid()}/mem", "rb"))
attempt("a signal to the pool", lambda: os.kill(os.getppid(), 0))
found["user"] = os.getuid()
print(json.dumps(found))
"""


@pytest.mark.skipif(landlock.version() < 6, reason="expected a kernel with Landlock 6")
@pytest.mark.parametrize("language", ["wasm", "typescript"])
def test_taken_over_child_reaches_nothing(language: str, tmp_path: Path) -> None:
    key = tmp_path / "bus.key"
    key.write_text("secret")

    uid = 65_534 if os.geteuid() == 0 else -1
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-c", ATTACK, language, str(uid), str(uid), str(key), port],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("user") == (uid if uid >= 0 else os.getuid())
    assert set(found.values()) == {"PermissionError"}, found


def test_child_without_a_layer_goes_on_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> int:
        raise OSError(38, "the kernel has no Landlock")

    monkeypatch.setattr(compile_child, "prctl", lambda option, value: None)
    monkeypatch.setattr(landlock, "restrict", missing)
    lock_in("auto", -1, -1)
    with pytest.raises(ConfinementError, match="no Landlock"):
        lock_in("strict", -1, -1)
    monkeypatch.setattr(landlock, "restrict", lambda *_, **__: pytest.fail("confinement is off"))
    lock_in("off", -1, -1)
