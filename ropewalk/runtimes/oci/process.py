"""What runs: arguments, working directory, environment (runtime-spec config.md, "process").

Values of the environment are bytes in the CRI and need not be UTF-8. In the spec they are text with
`surrogateescape`, so that no byte is lost; only `build.encode` decides how they reach config.json.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

from ropewalk import errors
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.image import ImageConfig

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TERM = "xterm"

_SURROGATE = re.compile("[\ud800-\udfff]")


def args(container: ContainerSpec, image: ImageConfig) -> list[str]:
    """command replaces ENTRYPOINT and with it CMD; args replaces CMD."""
    if container.command:
        words = [*container.command, *container.args]
    else:
        words = [*image.entrypoint, *(container.args or image.cmd)]
    return checked_args(words, "command and args are empty, and the image has neither ENTRYPOINT nor CMD")


def checked_args(words: Sequence[str], empty: str) -> list[str]:
    if not words or not words[0]:
        raise errors.Invalid(f"no command specified: {empty}", hint="set command")
    for word in words:
        if "\0" in word:
            raise errors.Invalid(f"the command has an argument with a NUL character: {word[:80]!r}")
    return list(words)


def cwd(container: ContainerSpec, image: ImageConfig) -> str:
    """An absolute, clean path; the runtime makes it if it is missing."""
    path = container.working_dir or image.working_dir or "/"
    if not path.startswith("/") or "\0" in path:
        field = "working_dir" if container.working_dir else "the image's WorkingDir"
        raise errors.Invalid(f"{field} is {path[:200]!r}", hint="an absolute path is needed")
    return "/" + posixpath.normpath(path).lstrip("/")


def env(container: ContainerSpec, image: ImageConfig, *, hostname: str, home: str) -> list[str]:
    """PATH, HOSTNAME, TERM, then the image's, then the request's; the last of a name wins. HOME if nobody set it:
    a runtime left without it would read the container's own passwd (CVE-2022-4318).

    What the image wrote without "=" is dropped: some runtimes then copy the daemon's variable (CVE-2026-57231).
    """
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if container.tty:
        merged["TERM"] = TERM
    for entry in image.env:
        key, equals, value = entry.partition("=")
        if key and equals and "\0" not in entry:
            merged[key] = value
    for variable in container.envs:
        check_variable(variable.key, variable.value)
        merged[variable.key] = variable.value.decode("utf-8", "surrogateescape")
    merged.setdefault("HOME", home)
    return [f"{key}={value}" for key, value in merged.items()]


def check_variable(key: str, value: bytes) -> None:
    if not key or "=" in key or "\0" in key:
        raise errors.Invalid(f"envs has the name {key[:80]!r}", hint="a name is not empty and has no '=' and no NUL")
    if b"\0" in value:
        raise errors.Invalid(
            f"envs[{key!r}] has a NUL byte", hint="the kernel ends a variable at NUL: encode the value"
        )


def not_utf8(entries: Sequence[str]) -> list[str]:
    """Names of the variables whose value is not UTF-8."""
    return [entry.partition("=")[0] for entry in entries if _SURROGATE.search(entry)]


def with_term(entries: Sequence[str]) -> list[str]:
    """For an exec with a terminal in a container without one."""
    if any(entry.startswith("TERM=") for entry in entries):
        return list(entries)
    return [*entries, f"TERM={TERM}"]
