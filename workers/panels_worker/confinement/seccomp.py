"""The system calls that a sandbox may make once it is connected: a filter that the pool builds and each
sandbox loads.

The list holds what libzmq, CPython and wasmtime were seen to need for jobs, traps, loading an artifact
and a clean exit; each call was proved necessary by removing it. Every other call fails with EPERM,
because harmless code probes too. Calls that only an attacker would make end the process, which the pool's
log then shows as SIGSYS.

It does not protect against a bug in a system call that is allowed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import tempfile
from typing import Final

#: Calls that some part of the process needs in the steady state.
ALLOWED: Final = (
    # reading, writing, waiting
    "read", "write", "pread64", "close", "lseek", "recvfrom", "sendto", "recvmsg", "sendmsg", "poll", "ppoll",
    "epoll_wait", "epoll_pwait", "epoll_ctl", "futex", "fcntl", "getsockopt", "getsockname", "getpeername",
    "shutdown", "fstat",
    # memory; what is executable has rules of its own below
    "brk", "munmap", "madvise", "mremap", "memfd_create", "ftruncate",
    # time, chance, identity
    "clock_gettime", "clock_nanosleep", "nanosleep", "clock_getres", "gettimeofday", "getrandom", "getpid",
    "gettid",
    # threads and signals
    "sched_yield", "rt_sigreturn", "rt_sigprocmask", "rt_sigaction", "sigaltstack", "restart_syscall",
    "membarrier",
    # libzmq's threads may still be starting
    "set_robust_list", "rseq", "sched_getparam", "sched_getscheduler", "sched_setscheduler",
    "sched_getaffinity",
    # leaving
    "exit", "exit_group",
)  # fmt: skip

#: No code of ours makes these calls, so only an attacker does.
FATAL: Final = (
    "execve", "execveat", "fork", "vfork", "clone", "clone3", "ptrace", "process_vm_readv",
    "process_vm_writev", "kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "pidfd_getfd",
    "pidfd_send_signal", "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "fsopen", "fsmount",
    "move_mount", "open_tree", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "keyctl", "add_key",
    "request_key", "personality", "init_module", "finit_module", "delete_module", "kexec_load", "swapon",
    "swapoff", "reboot", "setuid", "setgid", "setresuid", "setresgid", "setgroups", "capset", "socketpair",
    "bind", "listen", "accept4",
)  # fmt: skip

_PROT_WRITE: Final = 0x2
_PROT_EXEC: Final = 0x4
_AT_EMPTY_PATH: Final = 0x1000

_SECCOMP_SET_MODE_FILTER: Final = 1
_FLAG_TSYNC: Final = 1
#: By machine: the number of seccomp(2).
_SYSCALL_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
#: An instruction of the kernel's filter machine, in bytes; and how many there may be (BPF_MAXINSNS).
_INSTRUCTION_BYTES: Final = 8
_MAX_INSTRUCTIONS: Final = 4_096


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def build_filter() -> bytes:
    """The filter, as instructions for the kernel. Raises ``OSError`` where libseccomp is missing or does not
    know how.
    """
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError, OSError, AttributeError) as exc:
        raise OSError(errno.ENOSYS, f"libseccomp is not there: {exc}") from None

    rules = seccomp.SyscallFilter(defaction=seccomp.ERRNO(errno.EPERM))
    for name in ALLOWED:
        _rule(rules, seccomp.ALLOW, name)
    for name in FATAL:
        _rule(rules, seccomp.KILL_PROCESS, name)
    # memory is writable or executable, never both; a module that is loaded becomes executable by mprotect
    # alone
    rules.add_rule(seccomp.ALLOW, "mmap", seccomp.Arg(2, seccomp.MASKED_EQ, _PROT_EXEC, 0))
    rules.add_rule(seccomp.ALLOW, "mprotect", seccomp.Arg(2, seccomp.MASKED_EQ, _PROT_EXEC, 0))
    rules.add_rule(
        seccomp.ALLOW, "mprotect", seccomp.Arg(2, seccomp.MASKED_EQ, _PROT_EXEC | _PROT_WRITE, _PROT_EXEC)
    )
    # artifacts are opened for reading; Landlock makes sure that nothing else is
    writing = (
        os.O_WRONLY
        | os.O_RDWR
        | os.O_CREAT
        | os.O_TRUNC
        | os.O_APPEND
        | os.O_PATH
        | os.O_TMPFILE & ~os.O_DIRECTORY
    )
    rules.add_rule(seccomp.ALLOW, "openat", seccomp.Arg(2, seccomp.MASKED_EQ, writing, 0))
    # fstat(2) by another name, without the power to look at paths
    rules.add_rule(
        seccomp.ALLOW, "newfstatat", seccomp.Arg(3, seccomp.MASKED_EQ, _AT_EMPTY_PATH, _AT_EMPTY_PATH)
    )
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def load_filter(instructions: bytes) -> None:
    """Puts all threads of this process under the filter, for good. ``no_new_privs`` must be set. Raises
    ``OSError``.
    """
    number = _SYSCALL_SECCOMP.get(platform.machine())
    count, rest = divmod(len(instructions), _INSTRUCTION_BYTES)
    if number is None or rest or not 0 < count <= _MAX_INSTRUCTIONS:
        raise OSError(errno.ENOSYS, "no filter for this machine")
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = _Program(count, ctypes.addressof(buffer))
    result = libc.syscall(number, _SECCOMP_SET_MODE_FILTER, _FLAG_TSYNC, ctypes.byref(program))
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code) if result < 0 else f"thread {result} has a filter of its own")


def _rule(rules: object, action: int, name: str) -> None:
    try:
        rules.add_rule(action, name)  # type: ignore[attr-defined]
    except OSError:  # a call that this machine or this libseccomp does not have
        if action == 0x7FFF0000 and name in ("read", "write", "futex"):
            raise
