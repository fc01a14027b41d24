"""A process that runs one Python program with no network, no files to write and bounded resources.

    in   one line of JSON: {"program": source, "seconds": CPU time, "memory": bytes, "token": text}
    out  one line of JSON: {"passed": token}, {"failed": why}, or {"refused": what is not confined}

It runs as a script and imports nothing of this package. Before the program starts, the kernel's
seccomp filter allows this process only the system calls in ALLOWED, all others fail: it makes no
socket, process or file, sends no signal, and opens files only to read them. Limits on memory, CPU
time and open files come with it. Then it tries what must fail, and refuses if one thing works.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import socket
import struct
import sys

# System calls by machine: those that computing and reading files take.
ALLOWED = {
    "x86_64": (0xC000003E, 257, (
        0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 17, 19, 20, 21, 24, 25, 28, 35, 39, 60, 63,
        79, 89, 96, 98, 99, 100, 102, 104, 107, 108, 110, 131, 186, 202, 204, 217, 219, 228, 229,
        230, 231, 262, 267, 269, 273, 274, 318, 332, 334, 439)),
    "aarch64": (0xC00000B7, 56, (
        17, 48, 57, 61, 62, 63, 64, 65, 66, 67, 78, 79, 80, 93, 94, 98, 99, 100, 101, 113, 114, 115,
        123, 124, 128, 132, 134, 135, 139, 153, 160, 165, 169, 172, 173, 174, 175, 176, 177, 178,
        179, 214, 215, 216, 222, 226, 233, 278, 291, 293, 439)),
}  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # BPF: ld abs, jeq, jset, ret
NUMBER, MACHINE, THIRD_ARGUMENT = 0, 4, 32  # offsets in struct seccomp_data
ALLOW, FAIL, KILL = 0x7FFF0000, 0x00050001, 0x80000000  # FAIL: errno EPERM
NO_NEW_PRIVILEGES, SECCOMP, FILTER, PDEATHSIG = 38, 22, 2, 1  # <sys/prctl.h>


def rules(machine: str) -> bytes:
    """The filter as BPF instructions: (code, jump if true, jump if false, value) each."""
    audit, openat, allowed = ALLOWED[machine]
    lines = [(LOAD, 0, 0, MACHINE), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL),
             (LOAD, 0, 0, NUMBER)]  # fmt: skip
    for call in allowed:
        lines += [(EQUAL, 0, 1, call), (RETURN, 0, 0, ALLOW)]
    lines += [(EQUAL, 0, 3, openat), (LOAD, 0, 0, THIRD_ARGUMENT), (ANY_BIT, 1, 0, WRITES),
              (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, FAIL)]  # fmt: skip
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


def confine(seconds: float, memory: int) -> None:
    """Limits this process; OSError where the kernel refuses."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 32,
    }
    for what, most in limits.items():
        resource.setrlimit(what, (most, most))
    code = rules(platform.machine())
    program = ctypes.create_string_buffer(code, len(code))
    filter = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PDEATHSIG, signal.SIGKILL), (NO_NEW_PRIVILEGES, 1, 0, 0, 0),
                      (SECCOMP, FILTER, filter, 0, 0)):  # fmt: skip
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


def holes() -> list[str]:
    """What must fail here and does not."""
    tries = {
        "a socket": lambda: socket.socket(),
        "a file to write": lambda: open("/dev/null", "w"),  # noqa: SIM115
        "a process": lambda: os.fork() or os._exit(0),
        "another program": lambda: os.execv("/nothing", ["nothing"]),
        "a signal": lambda: os.kill(os.getpid(), 0),
        "a folder": lambda: os.mkdir("x"),
        "4 TiB of memory": lambda: bytearray(1 << 42),
    }
    found = []
    for what, attempt in tries.items():
        try:
            attempt()
            found.append(what)
        except (PermissionError, MemoryError):
            continue
        except OSError as error:
            found.append(f"{what} ({error.strerror})")
    return found


def run(program: str) -> dict:
    """Runs the program's source as a script: {}, or how it failed."""
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
        return {}
    except BaseException as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        return {"failed": told[:200]}


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w")
    sink = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(sink, stream)
    sys.argv = [""]
    try:
        confine(asked["seconds"], asked["memory"])
        found = holes()
    except (OSError, ValueError, KeyError) as error:
        found = [f"{type(error).__name__}: {error}"]
    answer = {"refused": ", ".join(found)} if found else run(asked["program"])
    answer = answer or {"passed": asked["token"]}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
