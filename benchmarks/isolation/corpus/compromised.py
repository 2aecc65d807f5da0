"""What an attacker tries who has taken over a sandbox process: Python that runs inside its confinement.

Each snippet leaves what it got in ``got``. It must not get there: an error of the system (``denied``) or the
end of the process by its filter (``killed``) has to come first. On the bus, ``nothing`` says that nothing
came of it (``got`` is false), and ``cut off`` that the gateway noticed, besides. ``captive`` runs them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.isolation.attack import sampled
from benchmarks.isolation.verdict import Row, Seen

FAMILY: Final = "compromised"
ROOT: Final = Path(__file__).resolve().parents[3]
DENIED: Final = "denied"
KILLED: Final = "killed"
NOTHING: Final = "nothing"
CUT_OFF: Final = "cut off"
#: How the jail's errors begin that mean that the system said no.
_REFUSALS: Final = ("PermissionError", "OSError", "FileNotFoundError", "ProcessLookupError", "ConnectionRefusedError",
                    "InterruptedError", "BlockingIOError", "NotADirectoryError", "ValueError", "MemoryError")  # fmt: skip
_SIGSYS: Final = 31
_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Snippet:
    """Python of an attacker, and the words of which one must come of it.

    It finds ``os``, ``socket``, ``mmap``, ``resource``, ``threading``, ``ctypes``, ``parent`` (the pool's
    process id), ``artifact`` and ``bus_key`` (files) and ``syscall(number, *arguments)``, which raises
    ``OSError``. ``bus`` says that it needs a sandbox's connection, and one of its own: it then finds
    ``captive``, ``config``, ``bus`` and the other names of ``intruder``, too. ``job`` says that it waits for
    a job, and ``counted`` are the beginnings of the lines of /metrics of which one has to grow for it to
    count as cut off.
    """

    group: str
    name: str
    source: str
    expected: tuple[str, ...] = (DENIED, KILLED)
    bus: bool = False
    job: bool = False
    counted: tuple[str, ...] = ("nothing",)


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a snippet, one of the words above or what it got, and how long that took."""

    snippet: Snippet
    word: str
    took_ms: float


def _snippets(
    group: str,
    *pairs: tuple[str, str],
    expected: tuple[str, ...] = (DENIED, KILLED),
    bus: bool = False,
    job: bool = False,
    counted: tuple[str, ...] = ("nothing",),
) -> list[Snippet]:
    return [Snippet(group, name, source, expected, bus, job, counted) for name, source in pairs]


# fmt: off
SNIPPETS: Final[tuple[Snippet, ...]] = (
    *_snippets("files",
        ("/etc/passwd", "got = open('/etc/passwd').read()"),
        ("/etc/shadow", "got = open('/etc/shadow').read()"),
        ("the source", "got = open(os.__file__).read()"),
        ("the root folder", "got = os.listdir('/')"),
        ("the temporary folder", "got = os.listdir('/tmp')"),
        ("a new file", "got = open('/tmp/panels-was-here', 'x')"),
        ("shared memory by file", "got = open('/dev/shm/panels-was-here', 'x')"),
        ("a device", "got = os.open('/dev/mem', os.O_RDONLY)"),
        ("up from the cache", "got = os.listdir('..')"),
        ("another folder", "os.chdir('/'); got = os.getcwd()"),
        ("a hard link", "os.link(artifact, 'other'); got = 1"),
        ("a symbolic link", "os.symlink('/etc/passwd', 'link'); got = open('link').read()"),
        ("a mount", "got = syscall(165, b'none', b'/tmp', b'tmpfs', 0, 0) == 0"),
        ("a pipe by name", "os.mkfifo('pipe'); got = 1"),
        ("the descriptors of others", "got = os.listdir('/proc/self/fd')"),
    ),
    *_snippets("the artifact cache",
        ("writing an artifact", "got = open(artifact, 'wb')"),
        ("appending to an artifact", "got = os.open(artifact, os.O_WRONLY | os.O_APPEND)"),
        ("truncating an artifact", "os.truncate(artifact, 0); got = 1"),
        ("a new artifact", "got = open('forged', 'xb')"),
        ("removing an artifact", "os.unlink(artifact); got = 1"),
        ("renaming an artifact", "os.rename(artifact, 'other'); got = 1"),
        ("the mode of an artifact", "os.chmod(artifact, 0o777); got = 1"),
        # a sandbox has it in memory, to check artifacts; where it is the pool's own user it may read the
        # file as well, and must not be able to write it
        ("the pool's key", "got = open('key', 'rb').read() if os.stat('key').st_uid != os.getuid() else os.open('key', 1)"),
        ("the bus's key", "got = open(bus_key, 'rb').read()"),
        ("listing the artifacts", "got = os.listdir('.')"),
    ),
    *_snippets("connections",
        ("TCP", "s = socket.socket(socket.AF_INET); s.connect(('127.0.0.1', 80)); got = 1"),
        ("TCP by IPv6", "got = socket.socket(socket.AF_INET6)"),
        ("UDP", "got = socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))"),
        ("a Unix socket", "got = socket.socket(socket.AF_UNIX)"),
        ("an abstract Unix socket", "s = socket.socket(socket.AF_UNIX); s.bind('\\0panels'); got = 1"),
        ("netlink", "got = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)"),
        ("raw packets", "got = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"),
        ("vsock", "got = socket.socket(40, socket.SOCK_STREAM)"),
        ("a pair of sockets", "got = socket.socketpair()"),
        ("listening", "s = socket.socket(); s.bind(('0.0.0.0', 0)); s.listen(); got = 1"),
    ),
    *_snippets("processes",
        ("fork", "got = os.fork()"),
        ("vfork", "got = syscall(58)"),
        ("clone3", "got = syscall(435, 0, 0)"),
        ("a thread", "threading.Thread(target=nothing).start(); got = 1"),
        ("execve", "os.execv('/bin/true', ['true'])"),
        ("posix_spawn", "got = os.posix_spawn('/bin/true', ['true'], {})"),
        ("execveat of a memfd", "fd = os.memfd_create('x'); os.write(fd, b'#!/bin/sh\\n'); got = syscall(322, fd, b'', 0, 0, 0x1000)"),
        ("killing the pool", "os.kill(parent, 9); got = 1"),
        ("asking for the pool", "os.kill(parent, 0); got = 1"),
        ("stopping everyone", "os.kill(-1, 19); got = 1"),
        ("a signal by descriptor", "got = syscall(434, parent, 0)"),
        ("a signal to a thread", "got = syscall(234, parent, parent, 9)"),
        ("priorities", "os.setpriority(os.PRIO_PROCESS, parent, 19); got = 1"),
        ("affinity", "os.sched_setaffinity(parent, {0}); got = 1"),
        ("limits of the pool", "resource.prlimit(parent, resource.RLIMIT_NOFILE, (1, 1)); got = 1"),
        ("limits of its own", "resource.setrlimit(resource.RLIMIT_DATA, (-1, -1)); got = 1"),
    ),
    *_snippets("other processes' memory",
        ("ptrace", "got = syscall(101, 16, parent, 0, 0) == 0"),
        ("ptrace by seizing", "got = syscall(101, 0x4206, parent, 0, 0) == 0"),
        ("process_vm_readv", "got = syscall(310, parent, 0, 0, 0, 0, 0)"),
        ("process_vm_writev", "got = syscall(311, parent, 0, 0, 0, 0, 0)"),
        ("/proc of the pool", "got = open(f'/proc/{parent}/mem', 'rb').read(1)"),
        ("the environment of the pool", "got = open(f'/proc/{parent}/environ', 'rb').read()"),
        ("memory maps of the pool", "got = open(f'/proc/{parent}/maps').read()"),
        ("its own environment", "got = open('/proc/self/environ', 'rb').read()"),
        ("its own memory as a file", "got = open('/proc/self/mem', 'r+b')"),
        ("siblings", "got = [open(f'/proc/{pid}/mem', 'rb').read(1) for pid in range(parent, parent + 64)]"),
        ("kcmp", "got = syscall(312, parent, os.getpid(), 0, 0, 0)"),
        ("pidfd_getfd", "got = syscall(438, 3, 0, 0)"),
        ("System V shared memory", "got = syscall(29, 1, 4096, 0o1666)"),
        ("POSIX message queues", "got = syscall(240, b'panels', 0o102, 0o666, 0)"),
    ),
    *_snippets("memory that runs",
        ("mapped to write and run", "got = mmap.mmap(-1, 4096, prot=7)"),
        ("mapped to run", "got = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)"),
        ("made runnable", "m = mmap.mmap(-1, 4096); a = ctypes.addressof(ctypes.c_char.from_buffer(m)); got = syscall(10, ctypes.c_void_p(a), 4096, 7) == 0"),
        ("made runnable with a key", "m = mmap.mmap(-1, 4096); a = ctypes.addressof(ctypes.c_char.from_buffer(m)); got = syscall(329, ctypes.c_void_p(a), 4096, 7, -1) == 0"),
        ("a memfd mapped to run", "fd = os.memfd_create('x'); os.ftruncate(fd, 4096); got = mmap.mmap(fd, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)"),
        ("more than it may have", "got = len(bytearray(2 << 30))"),
    ),
    *_snippets("the kernel",
        ("io_uring", "got = syscall(425, 8, 0)"),
        ("bpf", "got = syscall(321, 0, 0, 0)"),
        ("perf_event_open", "got = syscall(298, 0, 0, -1, -1, 0)"),
        ("userfaultfd", "got = syscall(323, 0)"),
        ("user namespace", "got = syscall(272, 0x10000000) == 0"),
        ("joining a namespace", "got = syscall(308, 0, 0) == 0"),
        ("keyctl", "got = syscall(250, 0, -3, 1)"),
        ("kernel modules", "got = syscall(313, 0, b'', 0)"),
        ("another root", "os.chroot('/'); got = 1"),
        ("user 0", "os.setuid(0); got = 1"),
        ("capabilities", "got = syscall(126, 0, 0)"),
        ("the host's name", "got = syscall(170, b'x', 1) == 0"),
        ("the clock", "import time; time.clock_settime(time.CLOCK_REALTIME, 0); got = 1"),
        ("the kernel's log", "got = syscall(103, 3, 0, 0)"),
        ("another filter", "got = syscall(317, 1, 0, 0)"),
        ("personality", "got = syscall(135, 0x0040000) == 0"),
    ),
    *_snippets("the bus",
        ("a new DEALER", "captive.process.context.socket(zmq.DEALER); got = 1"),
        expected=(KILLED, CUT_OFF), bus=True,
    ),
    *_snippets("the bus",
        ("another identity", "captive.beats.set(zmq.ROUTING_ID, b'x' * 16); captive.beats.connect(config.endpoint); got = bus.given()"),
        expected=(NOTHING, DENIED), bus=True,
    ),
    *_snippets("the bus",
        ("Hello as a pool on the second connection", "got = bus.say(captive.beats, m.Hello('pool', b'', 1, {}))"),
        ("Hello as its own pool", "got = bus.say(captive.jobs, m.Hello('pool', config.pool, 1, {}, config.ticket))"),
        ("a replayed ticket", "got = bus.say(captive.beats, m.Hello('sandbox', config.pool, 1, {}, config.ticket))"),
        ("a ticket for another pool", "got = bus.say(captive.jobs, m.Hello('sandbox', os.urandom(16), 1, {}, config.ticket))"),
        ("heartbeats for another", "got = bus.say(captive.beats, *[m.Heartbeat(os.urandom(16), 1) for _ in range(9)])"),
        ("somebody else's exit", "got = bus.say(captive.jobs, m.Exited(os.urandom(16)))"),
        ("a handler that is said to be compiled", "got = bus.say(captive.jobs, m.Prepared(b'd' * 32, None))"),
        expected=(CUT_OFF,), bus=True, counted=("panels_bus_breaches_total ",),
    ),
    *_snippets("the bus",
        ("a frame that is none", "got = bus.send(b'\\xff' * 64)"),
        ("a frame with more behind it", "got = bus.send(wire.encode([m.Heartbeat(config.worker, 1)]) * 5_000)"),
        ("a frame of 4 MiB", "got = bus.send(bytes(4 << 20))"),
        expected=(CUT_OFF,), bus=True, counted=("panels_bus_bad_frames_total ",),
    ),
    *_snippets("the bus",
        ("a frame that is too large to be read", "got = bus.send(bytes(65 << 20))"),
        expected=(NOTHING, CUT_OFF, KILLED), bus=True,
    ),
    *_snippets("the bus",
        ("a result twice", "j = bus.job(); got = bus.say(captive.jobs, completed(j.job, 1), completed(j.job, 2))"),
        ("forged results", ("j = bus.job(); captive.say(captive.jobs, completed(j.job, 1)); "
            "[captive.say(captive.jobs, *[completed(n, 99) for n in range(j.job + 1, j.job + 400)]) or time.sleep(0.02) for _ in range(50)]; "
            "got = bus.given()")),
        expected=(CUT_OFF,), bus=True, job=True,
        counted=("panels_results_stale_total ", "panels_results_forged_total ", "panels_bus_unasked_frames_total ",
                 "panels_bus_throttled_frames_total "),
    ),
)
# fmt: on


def jailed(snippet: Snippet) -> str:
    """What comes of a snippet in a process that confines itself as a sandbox does (``tests.support``)."""
    expression = f"[scope := dict(globals(), got=None, artifact='artifact', bus_key='../w.sock.key'), exec({snippet.source!r}, scope), scope['got']][-1]"
    with tempfile.TemporaryDirectory(prefix="panels-isolation-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "artifact").write_text("an artifact")
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.jail", name, expression, "main"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=_TIMEOUT_S,
        )
        first, _, rest = done.stdout.partition("\n")
        if not first.startswith("confined by"):
            return f"not confined: {(done.stdout + done.stderr)[-300:]}"
        if (folder / "artifact").read_text() != "an artifact" or len(list(folder.iterdir())) != 1:
            return "the cache was changed"
    return word_of(done.returncode, rest.strip())


def word_of(returncode: int, printed: str) -> str:
    """What an ended process, and what it printed of its snippet, mean."""
    if returncode == -_SIGSYS:
        return KILLED
    if returncode != 0:
        return f"ended with {returncode}"
    if printed.startswith(_REFUSALS):
        return DENIED
    return NOTHING if printed in ("None", "False", "0", "[]", "") else f"got {printed[:200]}"


def groups() -> list[str]:
    """The groups of snippets, in order."""
    return list(dict.fromkeys(snippet.group for snippet in SNIPPETS))


def chosen(most: int | None = None) -> list[Snippet]:
    """All snippets, or at most so many of each group, the first and the last among them."""
    return [
        snippet
        for group in groups()
        for snippet in sampled([snippet for snippet in SNIPPETS if snippet.group == group], most)
    ]


def rows(outcomes: Iterable[Tried]) -> list[Row]:
    """A row for each group of what was tried."""
    made = {group: Row(FAMILY, group) for group in groups()}
    for tried in outcomes:
        made[tried.snippet.group].seen.append(judged(tried))
    return [row for row in made.values() if row.seen]


def judged(tried: Tried) -> Seen:
    """What came of one snippet, and what is wrong with that."""
    snippet, word = tried.snippet, tried.word
    problems: tuple[str, ...] = ()
    if word not in snippet.expected:
        wanted = " or ".join(snippet.expected)
        problems = (f"{snippet.name}: expected {wanted}, got {word}",)
    shown = word if word in (DENIED, KILLED, NOTHING, CUT_OFF) else "got through"
    return Seen(snippet.name, shown, tried.took_ms, problems=problems)
