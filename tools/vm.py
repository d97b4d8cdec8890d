"""vm: the lab VM (Debian 12, systemd, cgroup v2, AppArmor) for COMMAND or a shell; the working tree is in it.

COMMAND's exit code is the verb's. Nothing survives the VM: its disk is an overlay over the cached one. There is no
network in it. `--images` attaches the test images and their registry's storage.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import termios
import threading
import tty
from types import FrameType

from tools.lab import channel, image, machine
from tools.lab.frames import Kind


def shell(vm: machine.Machine, command: list[str]) -> int:
    """On the guest's side of a terminal."""
    size = shutil.get_terminal_size()
    environment = {"TERM": os.environ.get("TERM", "linux")}
    stream = vm.start(command, env=environment, cwd=image.TREE, tty=[size.lines, size.columns])

    def resized(_: int, __: FrameType | None) -> None:
        size = shutil.get_terminal_size()
        stream.send(Kind.RESIZE, f"[{size.lines}, {size.columns}]".encode())

    def typed() -> None:
        while data := os.read(0, channel.CHUNK):
            stream.write(data)

    before = termios.tcgetattr(0)
    signal.signal(signal.SIGWINCH, resized)
    threading.Thread(target=typed, daemon=True).start()
    try:
        tty.setraw(0)
        return channel.wait(stream, machine.echo)
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def run(vm: machine.Machine, command: list[str]) -> int:
    """With this program's standard input (unless that is a terminal) and output; SIGINT and SIGTERM go to it."""
    if os.isatty(0) and os.isatty(1):
        return shell(vm, command)
    stream = vm.start(command, cwd=image.TREE)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stream.send(Kind.SIGNAL, str(number).encode()))

    def given() -> None:
        while data := b"" if os.isatty(0) else os.read(0, channel.CHUNK):
            stream.write(data)
        stream.write(b"")

    threading.Thread(target=given, daemon=True).start()
    return channel.wait(stream, machine.echo)


def main() -> int:
    arguments = sys.argv[1:]
    images = arguments[:1] == ["--images"]
    command = arguments[images:]
    if not command and not os.isatty(0):
        print("a shell needs a terminal; give a COMMAND", file=sys.stderr)
        return 2
    try:
        with machine.Machine(images=images) as vm:
            vm.put_tree()
            if not command:
                print(f"the lab VM: the working tree is in {image.TREE}; leave the shell to end it", flush=True)
            code = run(vm, command or ["bash", "-l"])
    except (machine.DidNotBoot, channel.Gone, OSError) as error:
        print(f"./dev vm: {error}", file=sys.stderr)
        return 1
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
