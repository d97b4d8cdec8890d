"""A runtime's program in a sealed memory file, so that it need not protect itself again at every start.

A container that reaches its runtime's binary through /proc/PID/exe could overwrite it (CVE-2019-5736). Therefore crun
and runc bind-mount or copy themselves and execute again, each time: 2 ms of CPU, a mount and an unmount. They leave
that out when they are in a memory file with all seals (crun src/libcrun/cloned_binary.c; memfd_create(2), F_GET_SEALS
in fcntl(2)), which nobody can write to. Ours is made once.

The link leads to /proc/<daemon>/fd/N: the program keeps its name in argv[0], where creators are found by it, and
one that outlives its daemon finds nothing to run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

MFD_EXEC = 0x10  # linux/memfd.h, Linux 6.3; needed where sysctl vm.memfd_noexec is 1
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
ELF = b"\x7fELF"


class Sealed:
    """`link`: the path under which the copy is run."""

    def __init__(self, link: str) -> None:
        self.link = link
        self._fd = -1
        self._source: tuple[int, ...] = ()

    def ensure(self, program: str) -> str:
        """The path to run `program` by: the link, which leads to a copy of it as it is now; `program` itself where
        that cannot be, because it is a script, or the kernel refuses."""
        try:
            status = os.stat(program)
            source = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if source != self._source:
                self._replace(copy(program))
                self._source = source
        except OSError:
            return program
        return self.link if self._fd >= 0 else program

    def _replace(self, fd: int) -> None:
        """The link is swapped before the old copy goes: it is never dangling."""
        if fd >= 0:
            os.makedirs(os.path.dirname(self.link), mode=0o700, exist_ok=True)
            temporary = f"{self.link}.new"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            os.symlink(f"/proc/{os.getpid()}/fd/{fd}", temporary)
            os.rename(temporary, self.link)
        self.close()
        self._fd = fd

    def close(self) -> None:
        """The link is left: it leads nowhere, and the next one replaces it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def copy(program: str) -> int:
    """A read-only descriptor of a sealed copy; -1 if the program is not a binary."""
    with open(program, "rb") as file:
        content = file.read()
    if not content.startswith(ELF):
        return -1
    name = os.path.basename(program)
    try:
        writable = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | MFD_EXEC)
    except OSError:  # EINVAL before Linux 6.3
        writable = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(writable, "wb", closefd=False) as file:
            file.write(content)
        os.fchmod(writable, 0o755)
        fcntl.fcntl(writable, fcntl.F_ADD_SEALS, SEALS)
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)  # ETXTBSY as long as one can write
    finally:
        os.close(writable)
