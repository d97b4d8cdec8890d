"""Messages to structs and back: nothing is lost, nothing is ignored, what is wrong is named."""

from __future__ import annotations

from typing import Any, cast

import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from ropewalk.errors import Invalid
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.image import AuthConfig
from ropewalk.spec.pod import NamespaceMode, PodSpec, SecurityProfile
from ropewalk.wire import structural
from ropewalk.wire.pb import cri_pb2 as pb

PODS = structural.pair(PodSpec, pb.PodSandboxConfig)
CONTAINERS = structural.pair(ContainerSpec, pb.ContainerConfig)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
NUMBERS = {
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "uint64": st.integers(0, 2**64 - 1),
}
KINDS: dict[int, st.SearchStrategy[Any]] = {
    3: NUMBERS["int64"],
    4: NUMBERS["uint64"],
    5: NUMBERS["int32"],
    8: st.booleans(),
    9: TEXT,
    12: st.binary(max_size=6),
    13: NUMBERS["uint32"],
}


def messages(descriptor: Any, *, without: frozenset[str] = frozenset({"windows"})) -> st.SearchStrategy[Message]:
    """Messages of a type with any of its fields set."""
    cls = message_factory.GetMessageClass(descriptor)
    fields = {f.name: values(f) for f in descriptor.fields if f.name not in without}
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: cls(**given))


def values(field: Any) -> st.SearchStrategy[Any]:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return st.dictionaries(TEXT, TEXT, max_size=2)
    if kind is not None:
        one: st.SearchStrategy[Any] = st.deferred(lambda: messages(kind))
    elif field.enum_type is not None:
        one = st.sampled_from(sorted(field.enum_type.values_by_number))
    else:
        one = KINDS[field.type]
    return st.lists(one, max_size=2) if field.is_repeated else one


def meaning(message: Message) -> bytes:
    """A message's bytes, without the difference between an absent and an empty section."""
    return prune(type(message).FromString(message.SerializeToString())).SerializeToString(deterministic=True)


OPTIONAL = {"seccomp", "apparmor", "selinux_options", "userns_options", "dns_config", "run_as_user", "run_as_group"}


def prune(message: Message) -> Message:
    """Without sections that are there but empty, where a spec does not tell that from their absence."""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for inner in value if field.is_repeated else [value]:
            prune(inner)
        if not field.is_repeated and field.name not in OPTIONAL and not value.ListFields():
            message.ClearField(field.name)
    return message


@settings(max_examples=60, deadline=None)
@given(messages(pb.PodSandboxConfig.DESCRIPTOR))
def test_a_pod_config_survives_both_ways(message: Message) -> None:
    assert meaning(PODS.write(PODS.read(message))) == meaning(message)


@settings(max_examples=60, deadline=None)
@given(messages(pb.ContainerConfig.DESCRIPTOR))
def test_a_container_config_survives_both_ways(message: Message) -> None:
    assert meaning(CONTAINERS.write(CONTAINERS.read(message))) == meaning(message)


def test_absent_is_the_default_and_present_but_empty_is_not_absent() -> None:
    spec = CONTAINERS.read(pb.ContainerConfig(linux={"security_context": {"seccomp": {}}}))
    assert spec.security.seccomp == SecurityProfile()
    assert CONTAINERS.read(pb.ContainerConfig()).security.seccomp is None


def test_a_user_of_zero_is_not_no_user() -> None:
    zero = pb.ContainerConfig(linux={"security_context": {"run_as_user": {}}})
    assert CONTAINERS.read(zero).security.run_as_user == 0
    assert CONTAINERS.read(pb.ContainerConfig()).security.run_as_user is None


def test_enumerations_are_members() -> None:
    message = pb.PodSandboxConfig()
    message.linux.security_context.namespace_options.network = pb.NODE
    assert PODS.read(message).namespaces.network is NamespaceMode.NODE


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            pb.PodSandboxConfig(linux={"security_context": {"namespace_options": {"pid": 9}}}),
            "config.linux.security_context.namespace_options.pid is 9: no such NamespaceMode",
        ),
        (pb.PodSandboxConfig(windows={}), "config.windows is not supported"),
        (pb.PodSandboxConfig(labels={"a": "b\0c"}), "config.labels holds a NUL byte: 'b\\x00c'"),
        (pb.PodSandboxConfig(hostname="a\0"), "config.hostname holds a NUL byte"),
    ],
)
def test_what_is_wrong_is_named(message: pb.PodSandboxConfig, said: str) -> None:
    with pytest.raises(Invalid, match=r"^" + said.replace("\\", "\\\\")):
        PODS.read(message, "config")


def test_a_number_that_names_no_signal_is_refused() -> None:
    with pytest.raises(Invalid, match="stop_signal is 99: no such Signal"):
        CONTAINERS.read(pb.ContainerConfig(stop_signal=cast(Any, 99)))


def test_every_field_is_carried_or_named_unsupported() -> None:
    """A field that the proto gains and a spec does not is an error at import, not a silent loss."""
    with pytest.raises(TypeError, match=r"PodSandboxConfig\.\w+ is in no struct"):
        structural.Pair(AuthConfig, pb.PodSandboxConfig)


def test_unsupported_names_exist() -> None:
    for name in structural.UNSUPPORTED:
        message, _, field = name.partition(".")
        assert field in pb.DESCRIPTOR.message_types_by_name[message].fields_by_name
