"""An OCI runtime's command line without containers: the process runs a shell script, `payload` in the bundle.

    runtime.py --root=BUNDLE create --bundle BUNDLE --pid-file FILE [--console-socket SOCKET] ID
    runtime.py --root=BUNDLE delete --force ID

The process waits for somebody to write to the fifo `go`. As gVisor: what create leaves is no container, `start ID` runs
the script with its own streams, `wait ID` prints how it ended. Files in the bundle change what happens: `slow`
(seconds that create takes), `broken` (what it writes to standard error before it fails), `dying` (seconds that it takes
to fail then).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import sys
import termios
import time


def main(argv: list[str]) -> int:
    bundle = argv[0].removeprefix("--root=")
    verb = next(word for word in argv if not word.startswith("-"))
    options = {argv[at]: argv[at + 1] for at in range(len(argv) - 1) if argv[at].startswith("--")}
    if verb == "create":
        return create(bundle, options)
    if verb == "start":
        fork_payload(bundle, "container")
        return 0
    if verb == "wait":
        pid = int(read(bundle, "container"))
        while os.path.exists(f"/proc/{pid}") and not os.path.exists(f"{bundle}/status"):
            time.sleep(0.01)
        print(json.dumps({"id": argv[-1], "exitStatus": int(read(bundle, "status"))}))
        return 0
    with contextlib.suppress(ProcessLookupError, FileNotFoundError, ValueError):
        os.kill(int(read(bundle, "pid")), signal.SIGKILL)
    open(f"{bundle}/deleted", "w").close()
    return 0


def read(bundle: str, name: str) -> str:
    with open(os.path.join(bundle, name)) as file:
        return file.read()


def create(bundle: str, options: dict[str, str]) -> int:
    if os.path.exists(f"{bundle}/slow"):
        time.sleep(float(read(bundle, "slow")))
    if os.path.exists(f"{bundle}/broken"):
        sys.stderr.write(read(bundle, "broken"))
        sys.stderr.flush()
        if os.path.exists(f"{bundle}/dying"):
            time.sleep(float(read(bundle, "dying")))
        return 1
    console = options.get("--console-socket", "")
    if os.path.exists(f"{bundle}/gvisor"):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.execvp("sleep", ["sleep", "600"])
        write(bundle, "pid", pid)
        return 0
    read_end, write_end = os.pipe()
    if os.fork() == 0:  # as runtimes do, the container's parent ends: whoever is subreaper gets it
        pid = fork_payload(bundle, "pid", console, fifo=True)
        os.write(write_end, b"x")
        os._exit(0)
    os.read(read_end, 1)
    return 0


def write(bundle: str, name: str, number: int) -> None:
    with open(f"{bundle}/{name}.tmp", "w") as file:
        file.write(str(number))
    os.rename(f"{bundle}/{name}.tmp", f"{bundle}/{name}")


def fork_payload(bundle: str, name: str, console: str = "", *, fifo: bool = False) -> int:
    pid = os.fork()
    if pid:
        write(bundle, name, pid)
        return pid
    os.setsid()
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python
        signal.signal(ignored, signal.SIG_DFL)
    if console:
        take_terminal(console)
    if fifo:
        with open(f"{bundle}/go") as file:
            file.read()
        os.execv("/bin/sh", ["sh", f"{bundle}/payload"])
    child = os.fork()
    if child == 0:
        os.execv("/bin/sh", ["sh", f"{bundle}/payload"])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    write(bundle, "status", code if code >= 0 else 128 - code)
    os._exit(0)


def take_terminal(console: str) -> None:
    master, slave = pty.openpty()
    with socket.socket(socket.AF_UNIX) as sender:
        sender.connect(console)
        socket.send_fds(sender, [b"x"], [master])
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(slave, fd)
    os.close(master)
    os.close(slave)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
