"""Lock the decoder process before it sees a byte of input, and say what the system allowed."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Mapping

from guard.video import seccomp

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_MAX_OPEN_FILES = 32


def lock(parent_pid: int, address_space_bytes: int) -> Mapping[str, str]:
    """Give up everything that decoding does not need. Returns what is on, and the reason for what is not.

    Order matters: entering a user namespace changes credentials, which clears the parent-death signal, so that comes
    after.
    """
    report = {"namespaces": _unshare(), "limits": _limits(address_space_bytes), "parent_death": _die_with(parent_pid)}
    report["seccomp"] = seccomp.install()
    report["no_new_privs"] = "on" if report["seccomp"] == "on" else _no_new_privs()
    return report


def _unshare() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
        return "on"
    return f"off: the system does not allow user namespaces here ({os.strerror(ctypes.get_errno())})"


def _limits(address_space_bytes: int) -> str:
    wanted = {
        resource.RLIMIT_AS: address_space_bytes,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _MAX_OPEN_FILES,
    }
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))
    return "on"


def _die_with(parent_pid: int) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        return f"off: refused ({os.strerror(ctypes.get_errno())})"
    if os.getppid() != parent_pid:  # it died before the call above could notice
        os._exit(0)
    return "on"


def _no_new_privs() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    return "on" if libc.prctl(38, 1, 0, 0, 0) == 0 else f"off: refused ({os.strerror(ctypes.get_errno())})"
