"""What a guest that broke out of the engine finds: each probe in a process that has confined itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from panels_worker.confinement import landlock
from panels_worker.confinement.confinement import Confinement, ConfinementError
from panels_worker.confinement.seccomp import build_filter, load_filter
from tests.support import jail

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or landlock.version() == 0, reason="needs Linux with Landlock"
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="panels-jail-") as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "artifact").write_text("readable")
        (path / "artifact").chmod(0o644)
        yield path


def probe(folder: Path, expression: str, *, where: str = "main") -> tuple[int, str]:
    """How the confined process ended, and what it printed of ``expression``."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.jail", str(folder), expression, where],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
    )
    first, _, rest = done.stdout.partition("\n")
    assert first.startswith("confined by no_new_privs, rlimits, landlock, "), done.stdout + done.stderr
    assert "missing" not in first
    return done.returncode, rest.strip()


KILLED = -signal.SIGSYS


@pytest.mark.parametrize("where", ["main", "thread"])
def test_confinement_leaves_artifacts_readable(folder: Path, where: str) -> None:
    assert probe(folder, "open('artifact').read()", where=where) == (0, "readable")


@pytest.mark.parametrize("where", ["main", "thread"])
@pytest.mark.parametrize(
    "expression",
    [
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        "open(f'/proc/{parent}/environ').read()",
        "open('artifact', 'w')",
        "open('new', 'x')",
        "os.listdir('/')",
        "os.listdir('.')",
        "os.stat('/etc/passwd')",
        "os.readlink('/proc/self/exe')",
        "os.unlink('artifact')",
        "os.rename('artifact', 'b')",
        "os.mkdir('x')",
        "os.chmod('artifact', 0o777)",
        "socket.socket(socket.AF_INET)",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_UNIX)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "mmap.mmap(-1, 4096, prot=7)",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
        "resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))",
        "os.sched_setaffinity(0, {0})",
        "os.nice(-5)",
    ],
)
def test_confinement_denies(folder: Path, expression: str, where: str) -> None:
    code, printed = probe(folder, expression, where=where)
    assert code == 0
    assert printed.split(":")[0] in ("PermissionError", "OSError", "ValueError"), printed


@pytest.mark.parametrize("where", ["main", "thread"])
@pytest.mark.parametrize(
    "expression",
    [
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.kill(parent, 9)",
        "os.kill(parent, 0)",
        "threading.Thread(target=nothing).start()",
        "syscall(101, 16, parent, 0, 0)",  # ptrace(PTRACE_ATTACH)
        "syscall(272, 0x10000000)",  # unshare(CLONE_NEWUSER)
        "syscall(310, parent, 0, 0, 0, 0, 0)",  # process_vm_readv
        "syscall(425, 8, 0)",  # io_uring_setup
        "syscall(321, 0, 0, 0)",  # bpf
        "os.setuid(0)",
        "socket.socketpair()",
    ],
)
def test_confinement_kills_what_tries(folder: Path, expression: str, where: str) -> None:
    assert probe(folder, expression, where=where) == (KILLED, "")


def test_confinement_bounds_memory(folder: Path) -> None:
    assert probe(folder, "len(bytearray(600 << 20))") == (0, "MemoryError:")


def test_confinement_keeps_a_page_from_being_written_and_then_run(folder: Path) -> None:
    code, printed = probe(
        folder,
        "[m := mmap.mmap(-1, 4096), a := ctypes.addressof(ctypes.c_char.from_buffer(m)), syscall(10, "
        "ctypes.c_void_p(a), 4096, 7)]",
    )
    assert (code, printed.split(":")[0]) == (0, "PermissionError")


def test_confinement_refuses_to_go_without_a_layer_when_strict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    confinement = Confinement(jail.config(str(tmp_path)))
    with pytest.raises(ConfinementError, match="expected landlock on this system, got: no such thing"):
        confinement._layer("landlock", no_such_thing)


def test_confinement_goes_without_a_layer_and_says_so_when_auto(tmp_path: Path) -> None:
    confinement = Confinement(jail.config(str(tmp_path), mode="auto"))
    confinement._layer("landlock", no_such_thing)
    confinement._layer("rlimits", lambda: None)
    assert confinement.summary() == "rlimits; missing: landlock (no such thing)"


def test_confinement_does_nothing_when_off(tmp_path: Path) -> None:
    confinement = Confinement(jail.config(str(tmp_path), mode="off"))
    confinement.before_threads()
    assert confinement.before_guests() is False
    assert confinement.active == []


@pytest.mark.parametrize("instructions", [b"", b"1234567", b"x" * 8 * 5000])
def test_filter_refuses_what_is_none(instructions: bytes) -> None:
    with pytest.raises(OSError, match="no filter"):
        load_filter(instructions)


def test_filter_is_the_same_each_time() -> None:
    assert build_filter() == build_filter()


def no_such_thing() -> None:
    raise OSError(38, "no such thing")


def test_confinement_leaves_a_descriptor_for_each_handler(folder: Path) -> None:
    """A module with data keeps a file open for as long as it is loaded."""
    most = 64 + jail.config(str(folder)).max_programs
    # fcntl's F_DUPFD takes the number that it is given, below the limit
    assert probe(folder, f"syscall(72, 1, 0, {most - 1})") == (0, str(most - 1))
    assert probe(folder, f"syscall(72, 1, 0, {most})")[1].startswith("OSError: [Errno 22]")
