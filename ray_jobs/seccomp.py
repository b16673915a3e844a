"""System calls that a process and all its threads give up for good: no socket, no other program (seccomp(2), Linux).

It needs no privilege, and holds where no namespace can be made.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_SET_MODE_FILTER, _TSYNC = 1, 1  # linux/seccomp.h
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # linux/filter.h: BPF_LD|W|ABS, JMP|JEQ|K, JMP|JGE|K, RET|K
_NUMBER_AT, _ARCH_AT = 0, 4  # in struct seccomp_data
_X32 = 0x40000000  # x86-64 has every call a second time from here on

# machine → (its AUDIT_ARCH, seccomp, then what is given up: socket, execve, execveat, ptrace, io_uring_setup)
_CALLS = {
    "x86_64": (0xC000003E, 317, (41, 59, 322, 101, 425)),
    "aarch64": (0xC00000B7, 277, (198, 221, 281, 117, 425)),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def forbid_calls() -> bool:
    """From now on each of them fails with EACCES. False where the machine is another or the kernel refuses."""
    if platform.system() != "Linux" or platform.machine() not in _CALLS:
        return False
    arch, seccomp, forbidden = _CALLS[platform.machine()]
    code = _filter(arch, forbidden)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero):
        return False
    return bool(libc.syscall(seccomp, _SET_MODE_FILTER, _TSYNC, ctypes.byref(program)) == 0)


def _filter(arch: int, forbidden: tuple[int, ...]) -> bytes:
    """Classic BPF. A jump counts the instructions that it passes over; the last two are "allow" and "refuse"."""
    tests = [(_EQUAL, number) for number in forbidden] + [(_AT_LEAST, _X32)]
    refuse = _ERRNO | errno.EACCES
    code = [(_LOAD, 0, 0, _ARCH_AT), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, refuse), (_LOAD, 0, 0, _NUMBER_AT)]
    code += [(test, len(tests) - at, 0, value) for at, (test, value) in enumerate(tests)]
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, refuse)]
    return b"".join(struct.pack("HBBI", *one) for one in code)
