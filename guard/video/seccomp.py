"""A seccomp filter for the decoder process: what it may ask of the kernel once its libraries are loaded.

An allow-list of system calls, as a classic BPF program installed through `prctl`; everything else fails with EPERM,
so an attempt is an error rather than a dead worker. Opening files is off altogether: the one file to decode arrives
as a descriptor. The numbers are those of x86-64 and aarch64; elsewhere `install` says why it did nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Mapping

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL = 0x80000000
_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_CLONE_THREAD = 0x00010000
_ARCHES: Mapping[str, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Calls of a running interpreter and decoder: memory, time, signals to itself, the channel, the descriptor.
_X86_64: Mapping[str, int] = {
    "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
    "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "readv": 19,
    "writev": 20, "access": 21, "sched_yield": 24, "mremap": 25, "mincore": 27, "madvise": 28, "dup": 32,
    "nanosleep": 35, "getpid": 39, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "exit": 60,
    "uname": 63, "fcntl": 72, "getcwd": 79, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99,
    "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "sigaltstack": 131,
    "gettid": 186, "futex": 202, "sched_getaffinity": 204, "set_tid_address": 218, "restart_syscall": 219,
    "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "set_robust_list": 273,
    "getcpu": 309, "getrandom": 318, "membarrier": 324, "rseq": 334,
}  # fmt: skip
_X86_64_SPECIAL: Mapping[str, int] = {"clone": 56, "kill": 62, "tgkill": 234, "prlimit64": 302, "clone3": 435}
_AARCH64: Mapping[str, int] = {
    "getcwd": 17, "dup": 23, "fcntl": 25, "faccessat": 48, "close": 57, "lseek": 62, "read": 63, "write": 64,
    "readv": 65, "writev": 66, "pread64": 67, "ppoll": 73, "fstat": 80, "exit": 93, "exit_group": 94,
    "set_tid_address": 96, "futex": 98, "set_robust_list": 99, "nanosleep": 101, "clock_gettime": 113,
    "clock_getres": 114, "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124,
    "restart_syscall": 128, "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139,
    "times": 153, "uname": 160, "getrlimit": 163, "getrusage": 165, "getcpu": 168, "gettimeofday": 169,
    "getpid": 172, "getppid": 173, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178,
    "sysinfo": 179, "sendto": 206, "recvfrom": 207, "sendmsg": 211, "recvmsg": 212, "brk": 214, "munmap": 215,
    "mremap": 216, "mmap": 222, "mprotect": 226, "mincore": 232, "madvise": 233, "getrandom": 278,
    "membarrier": 283, "rseq": 293,
}  # fmt: skip
_AARCH64_SPECIAL: Mapping[str, int] = {"clone": 220, "kill": 129, "tgkill": 131, "prlimit64": 261, "clone3": 435}


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _argument(index: int, high: bool = False) -> bytes:
    # struct seccomp_data: nr, arch, instruction pointer, six 64-bit arguments from offset 16; little-endian on both
    # machines.
    return _op(_LOAD, 16 + 8 * index + (4 if high else 0))


def program(machine: str, pid: int) -> bytes:
    """Return the BPF program for `machine` (`x86_64` or `aarch64`) and the process `pid`."""
    plain, special = (_X86_64, _X86_64_SPECIAL) if machine == "x86_64" else (_AARCH64, _AARCH64_SPECIAL)
    deny, allow = _op(_RET, _ERRNO | errno.EPERM), _op(_RET, _ALLOW)
    out = [_op(_LOAD, 4), _op(_JEQ, _ARCHES[machine], 1, 0), _op(_RET, _KILL), _op(_LOAD, 0)]
    if machine == "x86_64":
        out += [_op(_JGE, 0x40000000, 0, 1), _op(_RET, _KILL)]  # the x32 numbers would walk around the list
    for number in plain.values():
        out += [_op(_JEQ, number, 0, 1), allow]
    # Threads, not processes; glibc falls back from clone3 (whose flags lie in memory) to clone when told ENOSYS.
    out += [_op(_JEQ, special["clone3"], 0, 1), _op(_RET, _ERRNO | errno.ENOSYS)]
    out += [_op(_JEQ, special["clone"], 0, 4), _argument(0), _op(_JSET, _CLONE_THREAD, 0, 1), allow, deny]
    # Signals to itself only: abort() must work, the parent must be out of reach.
    for name in ("kill", "tgkill"):
        out += [_op(_JEQ, special[name], 0, 4), _argument(0), _op(_JEQ, pid, 0, 1), allow, deny]
    # Limits may be read, not set: the new value must be a null pointer.
    out += [
        _op(_JEQ, special["prlimit64"], 0, 6),
        _argument(2),
        _op(_JEQ, 0, 0, 3),
        _argument(2, high=True),
        _op(_JEQ, 0, 0, 1),
    ]
    out += [allow, deny, deny]
    return b"".join(out)


def install() -> str:
    """Lock this process;

    return `on`, or the reason why not. All threads must be started later than this, or not at all.
    """
    machine = platform.machine()
    if machine not in _ARCHES:
        return f"off: no system-call numbers for {machine}"
    if struct.pack("=H", 1) != b"\x01\x00":
        return "off: the filter is written for little-endian machines"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return f"off: no_new_privs refused ({os.strerror(ctypes.get_errno())})"
    code = program(machine, os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    descriptor = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    argument = ctypes.create_string_buffer(descriptor, len(descriptor))
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, argument, 0, 0) != 0:
        return f"off: the kernel refused the filter ({os.strerror(ctypes.get_errno())})"
    return "on"
