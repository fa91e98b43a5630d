"""Runs commands in processes of their own without importing everything for each: it imports once, and forks.

A line of JSON on stdin is a request, `{"run": name, "out": path, ...}` or `{"wait": pid, "timeout": seconds}`; a line
on stdout is the answer: the pid, or the exit code (null: it still runs).
"""

import atexit
import ctypes
import json
import os
import signal
import sys
import time
import traceback

import entries

_WITHOUT = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: what lets root read and write everywhere


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def obey_permissions() -> None:
    """Give up what lets root read and write files in spite of their permissions."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = _Header(0x20080522, 0), (_Data * 2)()
    libc.capget(ctypes.byref(header), data)
    for capability in _WITHOUT:
        data[0].effective &= ~(1 << capability)
        data[0].permitted &= ~(1 << capability)
    libc.capset(ctypes.byref(header), data)


def run(request: dict) -> int:
    """The exit code of a command in this process, which is a child."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdin = open(os.devnull)  # noqa: SIM115 - until the process ends
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if request["folder_is_gone"]:
        os.rmdir(request["folder"])
    if request["obey_permissions"]:
        obey_permissions()
    try:
        return entries.call(request["run"], request["out"], request["more"])
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    codes: dict[int, int] = {}
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "run" in request:
            answer = os.fork()
            if answer == 0:
                code = 1
                try:
                    code = run(request)
                    atexit._run_exitfuncs()
                    sys.stdout.flush()
                    sys.stderr.flush()
                finally:
                    os._exit(code)
        else:
            pid, until = request["wait"], time.monotonic() + request["timeout"]
            while pid not in codes:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    codes[pid] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > until:
                    break
                else:
                    time.sleep(0.01)
            answer = codes.get(pid)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
