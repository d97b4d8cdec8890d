"""protobuf messages to frozen structs with the same field names, and back.

A struct and a message are paired once (`pair`): each field of the message gets a converter by name, so that a
request walks only the fields that are set. A field that the message has and the struct has not must be named in
`UNSUPPORTED`; setting it is Invalid, never silently ignored. Wrappers (Int64Value) are `int | None`.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, cast

import msgspec
from google.protobuf import message_factory
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from msgspec import Struct

from ropewalk.errors import Invalid

T = TypeVar("T", bound=Struct)
Convert = Callable[[Any], Any]

# "<Message>.<field>" of runtime.v1 that the specs do not carry, and why.
UNSUPPORTED = {
    "PodSandboxConfig.windows": "this is a Linux node",
    "ContainerConfig.windows": "this is a Linux node",
    "ContainerResources.windows": "this is a Linux node",
    "PodSandboxStats.windows": "this is a Linux node",
}
_WRAPPERS = ("Int64Value", "UInt64Value")


class _Problem(Exception):
    """What is wrong with a field, and the path to it, built on the way out."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.path: list[str] = []


class Pair(Generic[T]):
    """One struct and its message."""

    def __init__(self, struct: type[T], message: type[Message]) -> None:
        self.struct = struct
        self.message = message
        fields = {f.name: f for f in msgspec.structs.fields(struct)}
        self._read: dict[str, Convert] = {}
        self._write: list[tuple[str, Any, Convert]] = []
        for field in message.DESCRIPTOR.fields:
            spec = fields.get(field.name)
            if spec is None:
                self._read[field.name] = _refusal(f"{message.DESCRIPTOR.name}.{field.name}")
                continue
            read, write = _converters(cast(FieldDescriptor, field), _plain(spec.type))
            self._read[field.name] = read
            default = spec.default if spec.default_factory is msgspec.NODEFAULT else spec.default_factory()
            self._write.append((field.name, default, write))

    def read(self, message: Message, path: str = "") -> T:
        """The message's value. Raises Invalid naming the field (below `path`) and what was found."""
        try:
            return self._value(message)
        except _Problem as problem:
            names = [path, *reversed(problem.path)]
            raise Invalid(f"{'.'.join(name for name in names if name)} {problem.text}") from None

    def write(self, value: T) -> Message:
        """The message with the fields that differ from their defaults."""
        given = {}
        for name, default, convert in self._write:
            field = getattr(value, name)
            if field != default:
                given[name] = convert(field)
        return self.message(**given)

    def _value(self, message: Message) -> T:
        values = {}
        for field, value in message.ListFields():
            try:
                values[field.name] = self._read[field.name](value)
            except _Problem as problem:
                problem.path.append(field.name)
                raise
        return self.struct(**values)


def pair(struct: type[T], message: type[Message]) -> Pair[T]:
    """The pair, made once. TypeError names a field of the message that is neither in the struct nor UNSUPPORTED."""
    key = (struct, message.DESCRIPTOR.full_name)
    if key not in _pairs:
        _pairs[key] = Pair(struct, message)
    return _pairs[key]


_pairs: dict[tuple[type[Struct], str], Pair[Any]] = {}


def _refusal(name: str) -> Convert:
    if name not in UNSUPPORTED:
        raise TypeError(f"{name} is in no struct and not named in UNSUPPORTED")

    def refuse(value: Any) -> Any:
        raise _Problem(f"is not supported: {UNSUPPORTED[name]}")

    return refuse


def _plain(type: Any) -> Any:
    """`X | None` is X; `Annotated[X, ...]` is X."""
    if typing.get_origin(type) is typing.Annotated:
        return _plain(typing.get_args(type)[0])
    if isinstance(type, types.UnionType) or typing.get_origin(type) is typing.Union:
        return _plain(next(arg for arg in typing.get_args(type) if arg is not types.NoneType))
    return type


def _converters(field: FieldDescriptor, type: Any) -> tuple[Convert, Convert]:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return _text_map, dict
    if field.is_repeated:
        read, write = _converter(field, typing.get_args(type)[0])
        return lambda values: [read(v) for v in values], lambda values: [write(v) for v in values]
    return _converter(field, type)


def _converter(field: FieldDescriptor, type: Any) -> tuple[Convert, Convert]:
    """Of one value, whatever repeats it."""
    kind = field.message_type
    if kind is not None and kind.name in _WRAPPERS:
        wrapper = message_factory.GetMessageClass(kind)
        return lambda message: message.value, lambda value: wrapper(value=value)
    if kind is not None:
        inner = pair(type, message_factory.GetMessageClass(kind))
        return inner._value, inner.write
    if isinstance(type, enum.EnumMeta):
        return _enumeration(type), int
    if field.enum_type is not None:
        return _number(field.enum_type), int
    if field.type == FieldDescriptor.TYPE_STRING:
        return _text, _same
    return _same, _same


def _enumeration(type: enum.EnumMeta) -> Convert:
    members: dict[int, Any] = {member.value: member for member in cast(Iterable[Any], type)}

    def read(value: int) -> Any:
        member = members.get(value)
        if member is None:
            known = ", ".join(f"{m.value} ({m.name})" for m in members.values())
            raise _Problem(f"is {value}: no such {type.__name__}, which has {known}")
        return member

    return read


def _number(type: EnumDescriptor) -> Convert:
    """An enumeration whose numbers are kept as they are."""
    known = frozenset(type.values_by_number)

    def read(value: int) -> int:
        if value not in known:
            raise _Problem(f"is {value}: no such {type.name}")
        return value

    return read


def _text(value: str) -> str:
    """No path, name or argument of the kernel's can hold a NUL, so a string with one is refused at the door."""
    if "\0" in value:
        raise _Problem(f"holds a NUL byte: {value[:64]!r}")
    return value


def _text_map(values: Any) -> dict[str, str]:
    return {_text(key): _text(value) for key, value in values.items()}


def _same(value: Any) -> Any:
    return value
