"""The lab VM as a process: boot it, run commands in it, reboot it, cut its power; when it is closed nothing is left.

The disk is written to a throw-away overlay that lives as long as QEMU does, so it survives reboots and power cuts.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools import debian, shims
from tools.lab import channel, frames, image

BOOT = 120.0  # seconds; it takes about 15 when the machine is quiet
CACHE = Path("/var/cache/ropewalk-dev")  # in the guest
MEMORY = "2G"
PROCESSORS = 2
KERNEL = (
    "root=/dev/vda", "rw", "console=ttyS0", "quiet", "systemd.show_status=no", "systemd.unified_cgroup_hierarchy=1",
    "psi=1", "net.ifnames=0", "panic=5", "mitigations=off",
)  # fmt: skip


class DidNotBoot(Exception):
    """With the end of the console."""


class Machine(channel.Channel):
    """`with Machine() as vm: vm.run("uname", "-a")`. `images`: with the disk of the test images. `attach`: the
    directory of a VM that runs and that nobody speaks to, which is then left running."""

    def __init__(self, *, images: bool = False, attach: Path | None = None) -> None:
        self.directory = attach or Path(tempfile.mkdtemp(prefix="ropewalk-lab-", dir="/var/tmp"))
        self.console = self.directory / "console.log"
        self.boot_id = ""
        self._images = image.ensure_images() if images else None
        self._listeners: list[socket.socket] = []
        self.process = None if attach else self._start(image.ensure())
        self._wait_for(self.directory / "agent")
        super().__init__(self.directory / "agent")

    def _start(self, disk: image.Image) -> subprocess.Popen[bytes]:
        with (self.directory / "qemu.log").open("wb") as log:
            return subprocess.Popen(
                self._command(disk),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": "/var/tmp"},  # where the overlays lie, unlinked
                start_new_session=True,
            )

    def _command(self, disk: image.Image) -> list[str]:
        disks = [disk.disk, *([self._images] if self._images else [])]
        command = [
            "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-display", "none",
            "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(PROCESSORS), "-m", MEMORY,
            "-kernel", str(disk.kernel), "-initrd", str(disk.initrd), "-append", " ".join(KERNEL),
            "-serial", f"file:{self.console}", "-device", "virtio-rng-pci", "-nic", "none",
            "-qmp", f"unix:{self.directory}/qmp,server=on,wait=off",
            "-chardev", f"socket,id=agent,path={self.directory}/agent,server=on,wait=off",
            "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=ropewalk.lab",
        ]  # fmt: skip
        for number, path in enumerate(disks):
            drive = f"file={path},format=raw,if=none,id=disk{number},snapshot=on,cache=unsafe"
            command += ["-drive", drive, "-device", f"virtio-blk-pci,drive=disk{number}"]
        return command

    # Its life.

    def __enter__(self) -> Self:
        try:
            self._greet()
            if self._images:
                self._mount_images()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            shutil.rmtree(self.directory, ignore_errors=True)
        super().close()

    def alive(self) -> bool:
        return self.process is None or self.process.poll() is None

    def said(self) -> str:
        """What QEMU said, and the end of the guest's console."""
        files = (self.directory / "qemu.log", self.console)
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in files if path.exists())

    def reboot(self) -> None:
        """As an administrator does it: systemd stops every service."""
        with contextlib.suppress(TimeoutError, channel.Gone):
            self.run("systemctl", "reboot", timeout=20)
        self._greet()
        self._mount_again()

    def reset(self) -> None:
        """The reset button: nothing is written back, nobody is told."""
        self._qmp("system_reset")
        self._greet()
        self._mount_again()

    def _greet(self) -> None:
        try:
            self.boot_id = self.greet(time.monotonic() + BOOT, other_than=self.boot_id, alive=self.alive)
        except TimeoutError:
            raise DidNotBoot(f"the lab VM does not answer:\n{self.said()}") from None

    def _wait_for(self, path: Path) -> None:
        deadline = time.monotonic() + 20
        while not path.exists():
            if not self.alive() or time.monotonic() > deadline:
                raise DidNotBoot(self.said())
            time.sleep(0.01)

    def _qmp(self, command: str) -> None:
        """The QEMU machine protocol: a greeting, a negotiation, then commands, one JSON document a line."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.directory / "qmp"))
            with control.makefile("rw") as lines:
                lines.readline()
                for execute in ("qmp_capabilities", command):
                    lines.write(json.dumps({"execute": execute}) + "\n")
                    lines.flush()
                    while not {"return", "error"} & (answer := json.loads(lines.readline())).keys():
                        pass  # an event
                    if "error" in answer:
                        raise RuntimeError(f"QEMU: {execute}: {answer['error']}")

    def _mount_images(self) -> None:
        """Where the guest's own tools look for them."""
        script = 'mkdir -p "$1"; mountpoint -q "$1" || mount LABEL=images "$1"'
        self.run("sh", "-c", script, "sh", f"{CACHE}/{image.images_name()}")

    def _mount_again(self) -> None:
        if self._images:
            self._mount_images()

    # Files and sockets.

    def read(self, path: str) -> str:
        return self.run("cat", path).text

    def write(self, path: str, content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        quoted = shlex.quote(path)
        self.run("sh", "-c", f"mkdir -p $(dirname {quoted}) && cat >{quoted}", input=data)

    def put_tree(self, *, target: str = image.TREE) -> None:
        """The working tree as git sees it, and the generated code."""
        listed = debian.run("git", "-C", image.ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        names = [name for name in listed.split("\0") if name]
        names += [str(path.relative_to(image.ROOT)) for path in (image.ROOT / "ropewalk/wire/pb").glob("*_pb2.py*")]
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name in names:
                path = image.ROOT / name
                if path.is_file() and not path.is_symlink():
                    archive.add(path, name, filter=_root_owned)
        self.run("mkdir", "-p", target)
        self.run("tar", "-x", "-C", target, input=buffer.getvalue())
        if self._images:
            self._put_shim()

    def _put_shim(self) -> None:
        """containerd's shim, where the guest's own tools look for it: the package would start containerd."""
        place = str(CACHE / "shims-debian" / shims.UNPACKED)
        self.put(shims.ensure(), place)
        self.run("chmod", "755", place)

    def put(self, source: Path, target: str) -> None:
        self.write(target, source.read_bytes())

    def forward(self, path: str) -> str:
        """A unix socket of the guest, as one of this machine: its path here."""
        here = self.directory / f"socket-{len(self._listeners)}"
        here.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(here))
        listener.listen(16)
        self._listeners.append(listener)
        threading.Thread(target=self._accept, args=(listener, path), daemon=True).start()
        return str(here)

    def _accept(self, listener: socket.socket, path: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = listener.accept()
                try:
                    stream = self.open(frames.Kind.CONNECT, path.encode())
                except (OSError, channel.Gone):  # no VM any more
                    accepted.close()
                    continue
                threading.Thread(target=_relay, args=(accepted, stream), daemon=True).start()


def _root_owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _relay(accepted: socket.socket, stream: channel.Stream) -> None:
    """Both directions of one connection, until the guest has closed it."""
    sender = threading.Thread(target=_to_guest, args=(accepted, stream), daemon=True)
    sender.start()
    with contextlib.suppress(OSError, channel.Gone):
        while (frame := stream.receive()).kind == frames.Kind.DATA and frame.payload:
            accepted.sendall(frame.payload)
    with contextlib.suppress(OSError):
        accepted.shutdown(socket.SHUT_RDWR)
    sender.join()
    accepted.close()


def _to_guest(accepted: socket.socket, stream: channel.Stream) -> None:
    with contextlib.suppress(OSError):
        while data := accepted.recv(channel.CHUNK):
            stream.write(data)
    with contextlib.suppress(OSError):
        stream.write(b"")


def echo(kind: frames.Kind, data: bytes) -> None:
    """A command's output as this program's own."""
    target: Any = sys.stdout if kind == frames.Kind.STDOUT else sys.stderr
    target.buffer.write(data)
    target.flush()
