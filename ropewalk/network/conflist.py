"""CNI network configurations: found, read, and turned into what one plugin gets on its standard input.

Format: CNI specification 1.1.0, sections 1 and 4 (0.3.0 to 1.1.0 are spoken). A configuration is whatever an
administrator or an installer put there, so everything that ends up in a path is checked.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from ropewalk.errors import Invalid

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")  # oldest first
EXTENSIONS = (".conflist", ".conf", ".json")
MAX_BYTES = 1 << 20
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what decoding JSON of others raises

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")  # section 1, "name"
_TYPE = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.+-]*")  # a file name in a directory of plugins, nothing else


class Network(Struct, frozen=True, omit_defaults=True):
    """A network: its plugins' configurations in their order, as they were written. `version`: the one that is spoken
    with them, out of `versions`. `aggregated`: some of them are from the directory beside the file."""

    name: str
    version: str
    versions: list[str]
    plugins: list[dict[str, Any]]
    file: str = ""
    disable_check: bool = False
    disable_gc: bool = False
    aggregated: bool = False

    @property
    def types(self) -> list[str]:
        return [plugin["type"] for plugin in self.plugins]

    @property
    def capabilities(self) -> set[str]:
        """Those that a plugin declares."""
        declared = (plugin.get("capabilities") or {} for plugin in self.plugins)
        return {name for each in declared for name, wanted in each.items() if wanted is True}

    def at_least(self, version: str) -> bool:
        return VERSIONS.index(self.version) >= VERSIONS.index(version)


class _Document(Struct):
    """The keys that are ours to read, of a list and of a single plugin's configuration."""

    name: str
    version: str = field(name="cniVersion", default="0.1.0")
    versions: list[str] = field(name="cniVersions", default_factory=list)
    type: Any = None  # of a single plugin's
    plugins: list[dict[str, Any]] | None = None
    disable_check: bool | str = field(name="disableCheck", default=False)
    disable_gc: bool | str = field(name="disableGC", default=False)
    only_inlined: bool | str = field(name="loadOnlyInlinedPlugins", default=False)

    @property
    def is_list(self) -> bool:
        return self.plugins is not None or self.type is None


def files(directory: str) -> list[str]:
    """The paths that may be configurations, by name. OSError if the directory cannot be read."""
    return [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.endswith(EXTENSIONS)]


def read(path: str) -> Network:
    """Raises Invalid for what is wrong with it, OSError if it cannot be read."""
    text = _read_bytes(path)
    document = _decode(text)
    if document.is_list and not _is_true(document.only_inlined):
        return parse(text, path, beside=_read_beside(os.path.join(os.path.dirname(path), document.name)))
    return parse(text, path)


def _read_beside(directory: str) -> list[dict[str, Any]]:
    """The plugins that others add to a list: *.conf in the directory that has the network's name (section 1,
    "loadOnlyInlinedPlugins"; the place is libcni's)."""
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    found = []
    for name in (name for name in names if name.endswith(".conf")):
        path = os.path.join(directory, name)
        found.append(_decode_plugin(_read_bytes(path), path))
    return found


def _read_bytes(path: str) -> bytes:
    """Not of a named pipe: that would hold us up."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Invalid(f"{path} is no regular file")
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise Invalid(f"{path} is larger than {MAX_BYTES} bytes")
    return text


def parse(text: bytes, file: str = "", *, beside: Sequence[dict[str, Any]] = ()) -> Network:
    """A list of plugins with those `beside` it, or one plugin's own configuration (the older format). The newest
    version that it offers and we speak is taken."""
    document = _decode(text)
    own = document.plugins or [] if document.is_list else [_decode_plugin(text, file)]
    plugins = [*own, *beside]
    if not plugins:
        raise Invalid("it has no plugins")
    for plugin in plugins:
        check_types(plugin)
        if not isinstance(plugin.get("capabilities") or {}, dict):
            raise Invalid(f"the capabilities of its plugin {plugin['type']} are no object")
    offered = {document.version, *document.versions}
    return Network(
        name=document.name,
        version=choose_version(offered, [VERSIONS]),
        versions=sorted(offered),
        plugins=plugins,
        file=file,
        disable_check=_is_true(document.disable_check),
        disable_gc=_is_true(document.disable_gc),
        aggregated=bool(beside),
    )


def _decode_plugin(text: bytes, path: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except UNREADABLE as error:
        raise Invalid(f"{path or 'it'} is no plugin's configuration: {error}") from error


def _decode(text: bytes) -> _Document:
    try:
        document = msgspec.json.decode(text, type=_Document)
    except UNREADABLE as error:
        raise Invalid(f"it is no network configuration: {error}") from error
    if not _NAME.fullmatch(document.name):
        raise Invalid(f"its name {document.name!r} is not letters, digits and _.-")
    return document


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
    if valid is not None:  # the second is the name in 1.1.0 as it was released; libcni, too, gives both
        document["cni.dev/valid-attachments"] = document["cni.dev/attachments"] = list(valid)
    return msgspec.json.encode(document)
