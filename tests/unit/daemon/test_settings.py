"""A key is declared once; documents, environment, flags and the printed file follow from it."""

from __future__ import annotations

import tomllib
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct, field

from ropewalk.daemon import settings
from ropewalk.errors import Invalid


class Section(Struct, frozen=True):
    mtu: Annotated[int, Meta(ge=0, description="bytes")] = 0
    names: Annotated[list[str], Meta(description="some names")] = field(default_factory=lambda: ["a"])


class Config(Struct, frozen=True):
    root: Annotated[str, Meta(description="where things are")] = "/data"
    fast: Annotated[bool, Meta(description="or not")] = False
    level: Annotated[Literal["info", "debug"], Meta(description="how much")] = "info"
    network: Section = Section()


def test_keys_are_named_by_path_and_carry_their_help() -> None:
    found = {key.name: key for key in settings.keys(Config)}
    assert list(found) == ["root", "fast", "level", "network.mtu", "network.names"]
    assert found["network.mtu"].help == "bytes"
    assert found["network.names"].default == ["a"]


class Flagged(Struct, frozen=True):
    flags: tuple[str, ...] = ()


def test_a_tuple_is_a_list_to_whoever_sets_it() -> None:
    (key,) = settings.keys(Flagged)
    assert key.values == "list of text"
    document = settings.environment({"P_FLAGS": "--a,--b"}, Flagged, "P")
    assert settings.parse(document, Flagged, "environment") == Flagged(("--a", "--b"))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"network": {"mtu": "big"}}, "f.toml: network.mtu = 'big': Expected `int`, got `str`"),
        ({"network": {"mtu": -1}}, "f.toml: network.mtu = -1: Expected `int` >= 0"),
        ({"level": "loud"}, "f.toml: level = 'loud': Invalid enum value 'loud'"),
        ({"network": {"names": ["a", 7]}}, "f.toml: network.names[1] = 7: Expected `str`, got `int`"),
        ({"network": 3}, "f.toml: network = 3: Expected `object`, got `int`"),
    ],
)
def test_a_wrong_value_names_file_key_and_value(document: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid) as caught:
        settings.parse(document, Config, "f.toml")
    assert str(caught.value).startswith(said)


def test_unknown_keys_are_told_with_the_nearest() -> None:
    document = {"rooot": "x", "network": {"mtuu": 1, "mtu": 2}, "zzzzzz": {"deep": 1}}
    assert settings.unknown(document, Config) == [
        "unknown key rooot; did you mean root?",
        "unknown key network.mtuu; did you mean network.mtu?",
        "unknown key zzzzzz",
    ]


def test_later_documents_win_key_by_key() -> None:
    merged = settings.merge([{"a": 1, "s": {"x": 1, "y": 1}}, {"s": {"y": 2}}, {"a": {"now": "a table"}}])
    assert merged == {"a": {"now": "a table"}, "s": {"x": 1, "y": 2}}


def test_the_environment_sets_any_key() -> None:
    environ = {"R_ROOT": "/x", "R_FAST": "true", "R_NETWORK_MTU": "1400", "R_NETWORK_NAMES": "b,c", "OTHER": "1"}
    document = settings.environment(environ, Config, "R")
    expected = Config(root="/x", fast=True, network=Section(mtu=1400, names=["b", "c"]))
    assert settings.parse(document, Config, "") == expected


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(Invalid, match=r"^R_NETWORK_MTU = 'many': Expected `int`"):
        settings.environment({"R_NETWORK_MTU": "many"}, Config, "R")


def test_what_is_printed_is_read_back() -> None:
    config = Config(root='a "quoted" \\ path\n', fast=True, network=Section(mtu=9, names=[]))
    text = settings.render(config, commented=False)
    assert settings.parse(tomllib.loads(text), Config, "") == config


def test_the_commented_file_explains_and_sets_nothing() -> None:
    text = settings.render(Config(), commented=True)
    assert tomllib.loads(text) == {"network": {}}
    assert "# bytes\n# mtu = 0\n" in text
    without_comments = "\n".join(line.removeprefix("# ") for line in text.splitlines() if "= " in line or "[" in line)
    assert settings.parse(tomllib.loads(without_comments), Config, "") == Config()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.one_of(TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.lists(TEXT, max_size=3)))
def test_any_value_is_toml(value: object) -> None:
    assert tomllib.loads(f"x = {settings.toml(value)}")["x"] == value


def test_a_table_is_toml() -> None:
    assert tomllib.loads(f"x = {settings.toml({'a b': [1, True]})}")["x"] == {"a b": [1, True]}
    assert msgspec.convert(tomllib.loads(f"x = {settings.toml(Section())}")["x"], Section) == Section()
