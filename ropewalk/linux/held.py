"""Kernel files that are read again and again, kept open in between: opening one costs five times what reading does."""

from __future__ import annotations

import contextlib
import errno
import os
import resource

SHARE = 4  # at most a quarter of the descriptors that this process may have
GONE = (errno.ENODEV, errno.ENOENT, errno.EOPNOTSUPP)  # its cgroup was removed, or is of a kind without this file
SIZE = 65536


class Held:
    """Files of cgroups. A held file does not keep its cgroup from being removed; it then reads as gone."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}

    def read(self, path: str) -> bytes:
        """The file as it is now; b"" if it, or what it tells of, is gone."""
        fd = self._files.get(path)
        if fd is not None:
            with contextlib.suppress(OSError):  # perhaps made anew since: look again
                return os.pread(fd, SIZE, 0)
            self._drop(path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        keep = len(self._files) < resource.getrlimit(resource.RLIMIT_NOFILE)[0] // SHARE
        try:
            content = os.pread(fd, SIZE, 0)
        except OSError as error:
            keep = False
            if error.errno not in GONE:
                raise
            return b""
        finally:
            if not keep:
                os.close(fd)
        if keep:
            self._files[path] = fd
        return content

    def forget(self, directory: str) -> None:
        """Everything below a directory that is being removed."""
        for path in [path for path in self._files if path.startswith(directory + "/")]:
            self._drop(path)

    def _drop(self, path: str) -> None:
        os.close(self._files.pop(path))
