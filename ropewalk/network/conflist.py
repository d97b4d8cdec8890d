"""CNI network configurations: found, read, and turned into what one plugin gets on its standard input.

Format: CNI specification 1.1.0, sections 1 and 4 (0.3.0 to 1.1.0 are spoken). A configuration is whatever an
administrator or an installer put there, so everything that ends up in a path is checked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from ropewalk.errors import Invalid

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")  # oldest first
EXTENSIONS = (".conflist", ".conf", ".json")
MAX_BYTES = 1 << 20

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")  # section 1, "name"
_TYPE = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.+-]*")  # a file name in a directory of plugins, nothing else


class Network(Struct, frozen=True, omit_defaults=True):
    """A network: its plugins' configurations in their order, as they were written. `version`: the one that is spoken
    with them, out of `versions`."""

    name: str
    version: str
    versions: list[str]
    plugins: list[dict[str, Any]]
    file: str = ""
    disable_check: bool = False
    disable_gc: bool = False

    @property
    def types(self) -> list[str]:
        return [plugin["type"] for plugin in self.plugins]

    def at_least(self, version: str) -> bool:
        return VERSIONS.index(self.version) >= VERSIONS.index(version)


class _Document(Struct):
    """The keys that are ours to read, of a list and of a single plugin's configuration."""

    name: str
    version: str = field(name="cniVersion", default="0.1.0")
    versions: list[str] = field(name="cniVersions", default_factory=list)
    plugins: list[dict[str, Any]] | None = None
    disable_check: bool | str = field(name="disableCheck", default=False)
    disable_gc: bool | str = field(name="disableGC", default=False)


def files(directory: str) -> list[str]:
    """The paths that may be configurations, by name. OSError if the directory cannot be read."""
    return [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.endswith(EXTENSIONS)]


def read(path: str) -> Network:
    """Raises Invalid for what is wrong with it, OSError if it cannot be read."""
    with open(path, "rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise Invalid(f"it is larger than {MAX_BYTES} bytes")
    return parse(text, path)


def parse(text: bytes, file: str = "") -> Network:
    """A list of plugins, or one plugin's own configuration (the older format). The newest version that it offers and
    we speak is taken."""
    try:
        document = msgspec.json.decode(text, type=_Document)
        plugins = document.plugins if document.plugins is not None else [msgspec.json.decode(text, type=dict[str, Any])]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"it is no network configuration: {error}") from error
    if not _NAME.fullmatch(document.name):
        raise Invalid(f"its name {document.name!r} is not letters, digits and _.-")
    if not plugins:
        raise Invalid("it has no plugins")
    for plugin in plugins:
        check_types(plugin)
    offered = {document.version, *document.versions}
    return Network(
        name=document.name,
        version=choose_version(offered, [VERSIONS]),
        versions=sorted(offered),
        plugins=plugins,
        file=file,
        disable_check=_is_true(document.disable_check),
        disable_gc=_is_true(document.disable_gc),
    )


def _is_true(value: bool | str) -> bool:
    """libcni takes both."""
    return value is True or (isinstance(value, str) and value.lower() in ("true", "t", "1"))


def check_types(plugin: Mapping[str, Any]) -> None:
    """The programs that a plugin's configuration names are names, not paths (CVE-2021-20206): its own, and the
    address manager's, which the plugin starts."""
    ipam = plugin.get("ipam")
    named = [plugin.get("type"), *([ipam["type"]] if isinstance(ipam, dict) and "type" in ipam else [])]
    for type in named:
        if not isinstance(type, str) or not _TYPE.fullmatch(type):
            raise Invalid(f"the plugin type {type!r} is not the name of a program")


def choose_version(offered: Iterable[str], spoken: Sequence[Iterable[str]]) -> str:
    """The newest of `offered` that everybody in `spoken` speaks."""
    common = set(VERSIONS).intersection(offered, *spoken)
    if not common:
        also = "" if len(spoken) < 2 else " and its plugins"
        raise Invalid(f"cniVersion {', '.join(sorted(offered))} is not spoken by us ({', '.join(VERSIONS)}){also}")
    return max(common, key=VERSIONS.index)


def build_input(
    network: Network,
    plugin: Mapping[str, Any],
    *,
    capabilities: Mapping[str, Any] | None = None,
    previous: bytes = b"",
    valid: Sequence[Mapping[str, str]] | None = None,
) -> bytes:
    """What a plugin reads (section 4, "Deriving request configuration"). Of the runtime's `capabilities` it gets those
    that it declares. `previous`: a result; `valid`: the attachments that GC must leave."""
    document: dict[str, Any] = {**plugin, "cniVersion": network.version, "name": network.name}
    declared = plugin.get("capabilities") or {}
    wanted = {key: value for key, value in (capabilities or {}).items() if declared.get(key) is True}
    if wanted:
        document["runtimeConfig"] = wanted
    if previous:
        document["prevResult"] = msgspec.Raw(previous)
    if valid is not None:
        document["cni.dev/valid-attachments"] = list(valid)
    return msgspec.json.encode(document)
