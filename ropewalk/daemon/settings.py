"""Settings as structs: what a tree of Config structs says about files, environment and documentation.

A key is declared once: name, type, default, and its help as `Annotated[..., Meta(description=...)]`, with
`extra={"live": True}` if a running daemon can take a new value. From that come the check of a TOML document, the
environment variable, what a reload may do, the commented default file, docs/settings.md and ropewalk.toml(5).
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from ropewalk.errors import Invalid

T = TypeVar("T", bound=Struct)
Document = dict[str, Any]


class Key(NamedTuple):
    """One setting: its path ("network", "mtu"), type, default and help. `live`: it may change while the daemon runs.
    `values`: its type and bounds in words, "integer, at least 0, at most 64"."""

    path: tuple[str, ...]
    type: Any
    default: Any
    help: str
    live: bool
    values: str

    @property
    def name(self) -> str:
        return ".".join(self.path)

    def read(self, config: Struct) -> Any:
        """Its value in `config`; None where `config` has no such section."""
        value: Any = config
        for name in self.path:
            value = getattr(value, name, None)
        return value


class Change(NamedTuple):
    """A key whose value differs between two configurations."""

    key: Key
    before: Any
    after: Any


def keys(struct: type[Struct], path: tuple[str, ...] = ()) -> Iterator[Key]:
    """Every setting below `struct`, those of a section before its subsections."""
    sections: list[tuple[str, type[Struct]]] = []
    for field in msgspec.structs.fields(struct):
        kind, notes = _bare(field.type)
        if is_section(kind):
            sections.append((field.encode_name, kind))
            continue
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        help = next((note.description for note in notes if note.description), "")
        live = any((note.extra or {}).get("live", False) for note in notes)
        yield Key((*path, field.encode_name), kind, default, help, live, _values(kind, notes))
    for name, section in sections:
        yield from keys(section, (*path, name))


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _bare(kind: Any) -> tuple[Any, list[msgspec.Meta]]:
    """Without `Annotated`, and what stood in it."""
    if typing.get_origin(kind) is typing.Annotated:
        bare, *notes = typing.get_args(kind)
        return bare, [note for note in notes if isinstance(note, msgspec.Meta)]
    return kind, []


LISTS = (list, tuple)  # a tuple is one of any length
_TYPES = {str: "text", int: "integer", float: "number", bool: "true or false"}


def _values(kind: Any, notes: list[msgspec.Meta]) -> str:
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " or ".join(map(toml, inside))
    if origin in LISTS:
        return f"list of {_values(*_bare(inside[0]))}"
    if origin is dict:
        return f"table of {_values(*_bare(inside[1]))}"
    bounds = {
        name: getattr(note, name) for note in notes for name in ("gt", "ge", "le") if getattr(note, name) is not None
    }
    least = f"at least {bounds['ge']}" if "ge" in bounds else f"above {bounds['gt']}" if "gt" in bounds else ""
    most = f"at most {bounds['le']}" if "le" in bounds else ""
    return ", ".join(filter(None, (_TYPES.get(kind, "table"), least, most)))


def changes(before: T, after: T) -> list[Change]:
    """What differs, in the order of `keys`. One of the two may have sections that the other has not."""
    found = {key.name: key for struct in (type(before), type(after)) for key in keys(struct)}
    pairs = [Change(key, key.read(before), key.read(after)) for key in found.values()]
    return [change for change in pairs if change.before != change.after]


def parse(document: Document, struct: type[T], source: str) -> T:
    """The settings of `document`. Raises Invalid naming `source`, the key and its value."""
    try:
        return msgspec.convert(document, struct)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        path = place.rstrip("`").lstrip(".")
        value = _at(document, path)
        raise Invalid(f"{source}: {path or 'the document'} = {value!r}: {problem}") from None


def _at(document: Any, path: str) -> Any:
    """The value at msgspec's path ("network.servers[2]"), as far as it goes."""
    for name in re.findall(r"[^.\[\]]+", path):
        if isinstance(document, dict) and name in document:
            document = document[name]
        elif isinstance(document, list) and name.isdigit() and int(name) < len(document):
            document = document[int(name)]
    return document


def unknown(document: Document, struct: type[Struct]) -> list[str]:
    """A warning for each key that nothing reads, with the nearest that exists."""
    known = {".".join(key.path[:depth]) for key in keys(struct) for depth in range(1, len(key.path) + 1)}
    return [nearest(name, known) for name in _names(document, struct)]


def _names(document: Document, struct: type[Struct], prefix: str = "") -> Iterator[str]:
    fields = {field.encode_name: _bare(field.type)[0] for field in msgspec.structs.fields(struct)}
    for name, value in document.items():
        if name not in fields:
            yield prefix + name
        elif is_section(fields[name]) and isinstance(value, dict):
            yield from _names(value, fields[name], f"{prefix}{name}.")


def nearest(name: str, known: set[str]) -> str:
    """That nothing is called `name`, and what may have been meant."""
    import difflib  # only the misspelt pay for it

    others = [key for key in known if not name.startswith(f"{key}.")]  # it is in the section, so that was meant
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.5)
    return f"unknown key {name}" + (f"; did you mean {near[0]}?" if near else "")


def merge(documents: list[Document]) -> Document:
    """Later documents override earlier ones, key by key."""
    merged: Document = {}
    for document in documents:
        for name, value in document.items():
            both = isinstance(value, dict) and isinstance(merged.get(name), dict)
            merged[name] = merge([merged[name], value]) if both else value
    return merged


def variable(key: Key, prefix: str) -> str:
    """The environment variable of a key: ROPEWALK_NETWORK_MTU."""
    return "_".join((prefix, *key.path)).upper()


def environment(environ: Mapping[str, str], struct: type[Struct], prefix: str) -> Document:
    """The settings that the environment gives. A list is separated by commas."""
    documents = [
        assignment(key, environ[name], name) for key in keys(struct) if (name := variable(key, prefix)) in environ
    ]
    return merge(documents)


def assignment(key: Key, text: str, source: str) -> Document:
    """The document that sets one key to what `text` says. Raises Invalid naming `source`."""
    given: Any = text.split(",") if typing.get_origin(key.type) in LISTS else text
    try:
        value = msgspec.convert(given, key.type, strict=False)
    except msgspec.ValidationError as error:
        raise Invalid(f"{source} = {text!r}: {error}") from None
    for name in reversed(key.path):
        value = {name: value}
    return typing.cast(Document, value)


def render(config: Struct, *, commented: bool) -> str:
    """`config` as TOML. `commented`: each key with its help, and itself a comment, as a file to edit."""
    lines: list[str] = []
    section: tuple[str, ...] = ()
    for key in keys(type(config)):
        if key.path[:-1] != section:
            section = key.path[:-1]
            lines += ["", f"[{'.'.join(section)}]"]
        if commented:
            lines += ["", *(f"# {line}" for line in _wrapped(key.help))]
        lines.append(f"{'# ' if commented else ''}{key.path[-1]} = {toml(key.read(config))}")
    return "\n".join(lines).strip("\n") + "\n"


def _wrapped(text: str) -> list[str]:
    import textwrap  # `config default` only

    return textwrap.wrap(text, 100)


def toml(value: Any) -> str:
    """One value in TOML 1.0, "nothing" for None. A string is written as JSON writes it, which TOML reads alike."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, Struct):
        return toml(msgspec.to_builtins(value))
    if value is None:
        return "nothing"
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
