"""How the extension process locks itself in, once it has read its secrets and started its extensions, and
before it takes a call.

    no_new_privs   nothing that it could start has more rights than it has
    dumpable       no other process of the user may look into its memory, where the secrets are
    capabilities   gone, also where the gateway is root
    rlimits        no core files, a bound on open files
    landlock       no file but those that Python, TLS and look-ups of names need, and nothing to write; no
                   signal to other processes
    seccomp        no program to start, no other process to look into, no Unix socket to connect to

So a hole in an HTTP client or in an extension reaches neither the gateway's memory nor its data directory and
keys. It does reach what the process holds, its secrets included, and the network: which hosts handlers reach
is the policy of ``http``, which that hole is in.

Landlock binds the calling thread and those that it starts later. A thread that an extension has started
before is not bound, which is said, and refused where confinement is strict.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Final

from panels_gateway.extensions.config import ExtensionsConfig
from panels_gateway.extensions.errors import ExtensionConfigError
from panels_shared import landlock

#: Connections, look-ups and files of all extensions together.
MAX_FILES: Final = 4_096

#: What the C library, OpenSSL and Python read while they run; what is not there is left out. Private keys in
#: /etc/ssl are not among them.
SYSTEM_FILES: Final = (
    "/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted", "/etc/ca-certificates/extracted", "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates", "/etc/crypto-policies",
    "/etc/resolv.conf", "/run/systemd/resolve", "/run/NetworkManager/resolv.conf", "/run/resolvconf",
    "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols",
    "/etc/passwd", "/etc/localtime", "/usr/share/zoneinfo", "/etc/mime.types",
    "/etc/ld.so.cache", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib",
    "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip
#: What may be written to besides what the configuration names.
SYSTEM_SINKS: Final = ("/dev/null",)

#: Calls that start programs, look into other processes, act on them, or widen what the kernel offers for an
#: attack. They fail with EPERM.
DENIED: Final = (
    "execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp",
    "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "tkill",
    "setpriority", "ioprio_set", "sched_setaffinity", "sched_setscheduler", "sched_setparam",
    "sched_setattr", "move_pages", "migrate_pages", "unshare", "setns", "mount", "umount2", "pivot_root",
    "chroot", "fsopen", "fsmount", "fsconfig", "fspick", "move_mount", "open_tree", "mount_setattr", "bpf",
    "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "keyctl",
    "add_key", "request_key", "personality", "init_module", "finit_module", "delete_module", "kexec_load",
    "kexec_file_load", "swapon", "swapoff", "reboot", "setuid", "setgid", "setreuid", "setregid", "setresuid",
    "setresgid", "setgroups", "setfsuid", "setfsgid", "capset", "open_by_handle_at", "name_to_handle_at",
    "fanotify_init", "quotactl", "acct", "syslog", "iopl", "ioperm", "modify_ldt", "shmget", "msgget",
    "semget", "mq_open",
)  # fmt: skip
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_TYPES, _SOCK_DGRAM = 0xF, 2

_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522


class Confinement:
    """The layers of this process, by name: ``active``, and ``missing`` with the reason.

    ``config`` says which there are to be. ``apply`` is called once, in the main thread.
    """

    def __init__(self, config: ExtensionsConfig) -> None:
        self._config = config
        self.active: list[str] = []
        self.missing: list[str] = []

    def apply(self) -> None:
        """Locks the process in, for good. Raises ``ExtensionConfigError`` where confinement is strict and a
        layer cannot be had.
        """
        if self._config.confine == "off":
            return
        # what follows takes away what making a filter needs
        load_filter = self._layer("seccomp", lambda: _filter(local_sockets=self._config.local_sockets))
        self._layer("no_new_privs", lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1))
        self._layer("dumpable", lambda: _prctl(_PR_SET_DUMPABLE, 0))
        self._layer("capabilities", _drop_capabilities)
        self._layer("rlimits", _limit)
        self._layer("landlock", self._restrict)
        if load_filter is not None:
            self.active.remove("seccomp")
            self._layer("seccomp", load_filter)

    def summary(self) -> str:
        """Names the layers that are active, and those that are not."""
        if self._config.confine == "off":
            return "nothing (confine is off)"
        missing = f"; missing: {', '.join(self.missing)}" if self.missing else ""
        return f"{', '.join(self.active)}{missing}"

    def _layer(self, name: str, apply: Callable[[], Callable[[], None] | None]) -> Callable[[], None] | None:
        try:
            found = apply()
        except OSError as exc:
            self._refuse(name, exc.strerror or type(exc).__name__)
            return None
        self.active.append(name)
        return found

    def _refuse(self, name: str, why: str) -> None:
        if self._config.confine == "strict":
            raise ExtensionConfigError(
                f"confine: expected {name} on this system, got: {why}; set confine to auto to go without"
            )
        self.missing.append(f"{name} ({why})")

    def _restrict(self) -> None:
        config = self._config
        hidden = tuple(map(os.path.realpath, (*config.hidden, *_secret_files(config))))
        for path in config.writable:
            # opened child by child, nothing new could be made in it, which nobody would understand
            if inside := next((secret for secret in hidden if _is_in(secret, os.path.realpath(path))), None):
                raise ExtensionConfigError(
                    f"writable: expected a folder without what stays closed, got {path} with {inside} in it"
                )
        readable = (*SYSTEM_FILES, *_certificates(), *python_folders(), *config.readable)
        rules = [
            *reachable(readable, hidden, landlock.READ_FILE | landlock.READ_DIR),
            *reachable(
                (*SYSTEM_SINKS, *config.writable),
                hidden,
                landlock.READ_FILE | landlock.READ_DIR | landlock.WRITE_FOLDER,
            ),
        ]
        threads = len(os.listdir("/proc/self/task"))
        with ExitStack() as opened:
            beneath: list[tuple[int, int]] = []
            for path, rights in rules:
                try:
                    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                opened.callback(os.close, descriptor)
                beneath.append((descriptor, rights if os.path.isdir(path) else rights & landlock.ON_FILES))
            found = landlock.restrict(beneath, connect_ports=None)
        if found < 6:
            self._refuse("landlock's newer rights", f"the kernel has version {found}, of 6")
        if threads > 1:
            self._refuse("landlock for all threads", f"{threads - 1} had been started before it")


# -- files -------------------------------------------------------------------------------------------


def python_folders() -> Sequence[str]:
    """Where modules are imported from, those of packages that are found by other means than the path too."""
    folders = dict.fromkeys(sys.path)
    for name, module in list(sys.modules.items()):
        if "." not in name:
            folders.update(dict.fromkeys(map(str, getattr(module, "__path__", ()))))
    return [folder for folder in folders if os.path.isabs(folder)]


def reachable(paths: Iterable[str], hidden: Sequence[str], rights: int) -> Iterator[tuple[str, int]]:
    """Each of ``paths`` that exists, with ``rights``, but nothing of ``hidden``.

    A folder that has something hidden in it is replaced by what stands in it at the moment, because Landlock
    takes nothing away again; its own names can be listed. ``hidden`` are real paths.
    """
    for path in map(os.path.realpath, paths):
        if any(_is_in(path, secret) for secret in hidden):
            continue
        if any(_is_in(secret, path) for secret in hidden):
            yield path, landlock.READ_DIR
            # a link may lead anywhere, and what it leads to was not named
            children = [entry.path for entry in os.scandir(path) if not entry.is_symlink()]
            yield from reachable(children, hidden, rights)
        elif os.path.exists(path):
            yield path, rights


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _secret_files(config: ExtensionsConfig) -> Iterator[str]:
    return (secret.file for secret in config.http.secrets.values() if secret.file)


def _certificates() -> Iterator[str]:
    paths = ssl.get_default_verify_paths()
    return (path for path in (paths.cafile, paths.capath) if path)


# -- the other layers --------------------------------------------------------------------------------


def _prctl(option: int, value: int) -> None:
    _checked(_libc().prctl(option, value, 0, 0, 0))


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _checked(_libc().capset(header, nothing))


def _limit() -> None:
    for what, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, MAX_FILES)):
        _, hard = resource.getrlimit(what)
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (limit, limit))


def _filter(*, local_sockets: bool) -> Callable[[], None]:
    """Makes the filter; what it returns puts all threads under it. Raises ``OSError``."""
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError, OSError, AttributeError) as exc:
        raise OSError(errno.ENOSYS, f"libseccomp is not there: {exc}") from None

    arg, equal, other = seccomp.Arg, seccomp.EQ, seccomp.NE
    refuse = seccomp.ERRNO(errno.EPERM)
    rules = seccomp.SyscallFilter(defaction=seccomp.ALLOW)
    rules.set_attr(seccomp.Attr.CTL_TSYNC, 1)

    def deny(name: str, *conditions: object) -> None:
        try:
            rules.add_rule(refuse, name, *conditions)
        except (OSError, RuntimeError):  # a call that this machine or this libseccomp does not have
            if name in ("execve", "ptrace", "socket"):
                raise

    for name in DENIED:
        deny(name)
    pid = os.getpid()
    for name in ("kill", "tgkill"):
        deny(name, arg(0, other, pid))
    deny("prlimit64", arg(0, other, 0))
    for family in range(1, 64):
        if family not in (_AF_INET, _AF_INET6, _AF_NETLINK) and not (family == _AF_UNIX and local_sockets):
            deny("socket", arg(0, equal, family))
    if not local_sockets:
        # one that is half of a pair can still send to a path
        deny("socketpair", arg(1, seccomp.MASKED_EQ, _SOCK_TYPES, _SOCK_DGRAM))

    def load() -> None:
        rules.load()

    return load


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
