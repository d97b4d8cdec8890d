"""Which handlers a configuration makes, and which one a pod gets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from ropewalk.daemon import config
from ropewalk.errors import Invalid
from ropewalk.linux import cgroup
from ropewalk.runtimes import registry
from ropewalk.runtimes.handler import Node
from ropewalk.runtimes.handlers import crun
from ropewalk.spec.pod import (
    LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    PodSpec,
)
from tests.fakes import world

FOREIGN = """
from typing import Annotated
from msgspec import Meta
from ropewalk.runtimes import handler
from tests.fakes import world

class Config(handler.Config, frozen=True):
    colour: Annotated[str, Meta(description="of the rope")] = "red"

class Handler(world.FakeHandler):
    def __init__(self, config, node, *, name=""):
        super().__init__(world.World())
        self.name, self.colour = name, config.colour
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with a handler `rope`, and two that are none."""
    (tmp_path / "rope_handler.py").write_text(FOREIGN)
    (tmp_path / "no_handler.py").write_text("Config = int")
    info = tmp_path / "rope-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: rope\nVersion: 1\n")
    points = "rope = rope_handler\nnone = no_handler\ngone = no_such_module\n"
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("rope_handler", None)
    sys.modules.pop("no_handler", None)


def load(tmp_path: Path, text: str) -> config.Loaded:
    (tmp_path / "config.toml").write_text(text)
    return config.load(str(tmp_path / "config.toml"), environ={})


def build(tmp_path: Path, text: str) -> registry.Handlers:
    loaded = load(tmp_path, text).config
    node = Node(str(tmp_path), cgroup.detect())
    return registry.build(loaded.runtimes, node, default=loaded.default_runtime, untrusted=loaded.untrusted_runtime)


def test_every_built_in_type_has_a_handler_of_its_name(tmp_path: Path) -> None:
    handlers = build(tmp_path, "")
    assert tuple(handlers) == registry.built_in()
    assert [handlers[name].name for name in handlers] == list(registry.built_in())
    assert handlers[""].name == "crun"


def test_a_section_with_a_type_is_one_more(tmp_path: Path) -> None:
    text = '[runtimes.second]\ntype = "crun"\npath = "/opt/crun"\npod_annotations = ["run.oci.handler"]\n'
    handlers = build(tmp_path, text)
    second = handlers["second"]
    assert isinstance(second, crun.Handler)
    assert (second.name, second.command.path) == ("second", "/opt/crun")
    assert second.config.pod_annotations == ["run.oci.handler"]
    assert (tmp_path / "runtimes/second").is_dir()
    assert handlers["crun"].config.pod_annotations == []


def test_a_built_in_name_may_have_another_type(tmp_path: Path) -> None:
    assert isinstance(build(tmp_path, '[runtimes.runc]\ntype = "crun"\n')["runc"], crun.Handler)


@pytest.mark.parametrize("name", ["crun-second", "2nd"])
def test_a_name_need_not_be_an_identifier(tmp_path: Path, name: str) -> None:
    made = build(tmp_path, f'[runtimes.{name}]\ntype = "crun"\n')
    assert made[name].name == name
    assert set(made) == {*registry.built_in(), name}


def test_a_foreign_package_adds_a_type(tmp_path: Path, foreign: None) -> None:
    text = 'default_runtime = "rope"\n[runtimes.rope]\ncolour = "blue"\n[runtimes.other]\ntype = "rope"\n'
    handlers = build(tmp_path, text)
    assert [getattr(handlers[name], "colour", "") for name in ("", "other", "crun")] == ["blue", "red", ""]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[runtimes.mine]\ntype = "nope"\n', r"^\[runtimes.mine\] has type = 'nope', and there is no such handler"),
        ("[runtimes.none]\n", "entry point 'none' = 'no_handler' of ropewalk.handlers has no Handler"),
        ("[runtimes.gone]\n", "entry point 'gone' = 'no_such_module' of ropewalk.handlers cannot be imported"),
        ('[runtimes."a/b"]\ntype = "crun"\n', r"^\[runtimes.a/b\]: a handler's name has small letters"),
        ('[runtimes.second]\ntype = "crun"\npath = 3\n', r"runtimes.second.path = 3"),
        ('untrusted_runtime = "vm"\n', "^untrusted_runtime = 'vm': this node has crun"),
    ],
)
def test_errors_name_the_section(tmp_path: Path, foreign: None, text: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        build(tmp_path, text)


def test_a_section_that_nothing_reads_is_a_warning(tmp_path: Path) -> None:
    assert "unknown key runtimes.crn; did you mean runtimes.crun?" in load(tmp_path, "[runtimes.crn]\n").warnings[0]


def test_installed_packages_are_not_looked_through_without_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "entry_points", None)
    assert "second" in build(tmp_path, '[runtimes.second]\ntype = "crun"\n')


# Which one a pod gets

CONTAINERD = {"io.kubernetes.cri.untrusted-workload": "true"}
CRIO = {"io.kubernetes.cri-o.TrustedSandbox": "false"}


def choose(spec: PodSpec, untrusted: str = "vm") -> str:
    made = {}
    for name in ("crun", "runc", "vm"):
        made[name] = world.FakeHandler(world.World())
        made[name].name = name
    return registry.Handlers(made, "crun", untrusted).choose(spec).name


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (PodSpec(), "crun"),
        (PodSpec(runtime_handler="runc"), "runc"),
        (PodSpec(annotations=CONTAINERD), "vm"),
        (PodSpec(annotations=CRIO), "vm"),
        (PodSpec(annotations=CRIO, runtime_handler="vm"), "vm"),
        (PodSpec(annotations={"io.kubernetes.cri.untrusted-workload": "false"}), "crun"),
        (PodSpec(annotations={"io.kubernetes.cri-o.TrustedSandbox": "true"}), "crun"),
    ],
)
def test_the_pod_says_which(spec: PodSpec, name: str) -> None:
    assert choose(spec) == name


HOST = LinuxPodSandboxConfig(
    security_context=LinuxSandboxSecurityContext(namespace_options=NamespaceOption(pid=NamespaceMode.NODE))
)


@pytest.mark.parametrize(
    ("spec", "untrusted", "said"),
    [
        (
            PodSpec(annotations=CONTAINERD),
            "",
            "is not trusted, and this node has no handler",
        ),
        (PodSpec(annotations=CRIO, runtime_handler="runc"), "vm", "runtime_handler is 'runc'"),
        (PodSpec(annotations=CRIO, linux=HOST), "vm", "namespace_options.pid NODE opens the node"),
        (PodSpec(runtime_handler="nope"), "", "no runtime handler named 'nope'"),
    ],
)
def test_what_contradicts_itself_is_refused(spec: PodSpec, untrusted: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        choose(spec, untrusted)
