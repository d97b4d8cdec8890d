"""What a shim's section becomes, by its family and its keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.errors import Invalid
from ropewalk.linux import cgroup
from ropewalk.runtimes.drivers.shim import driver, options
from ropewalk.runtimes.handler import Boundary, Node
from ropewalk.runtimes.handlers import shim
from ropewalk.runtimes.monitors import own
from ropewalk.spec.pod import LinuxContainerResources
from ropewalk.wire.pb import shim_pb2 as pb


def build(path: Path, config: shim.Config, name: str = "") -> shim.Handler:
    return shim.Handler(config, Node(str(path), cgroup.detect()), name=name)


def given(handler: shim.Handler) -> pb.Any:
    return pb.Any.FromString(handler.settings.options)


def test_runcs_shim_is_namespaces(tmp_path: Path) -> None:
    handler = build(tmp_path, shim.Config())
    assert handler.capabilities.boundary is Boundary.NAMESPACES
    assert handler.capabilities.host_network
    assert (handler.settings.sandbox, handler.settings.hand_over, handler.direct) == ("none", False, True)
    assert handler.settings.logger == own.SHIPPED
    assert given(handler).type_url == options.RUNC
    value = pb.RuncOptions.FromString(given(handler).value)
    assert (value.binary_name, value.root, value.systemd_cgroup) == ("crun", str(tmp_path / "runtimes"), False)


def test_a_scope_is_told_to_runc_and_to_no_other(tmp_path: Path) -> None:
    scope = "/kubepods.slice/ropewalk-0123.scope"
    placed = options.place(build(tmp_path, shim.Config()).settings.options, scope)
    assert pb.RuncOptions.FromString(placed.value).systemd_cgroup
    kata = build(tmp_path, shim.Config(path="io.containerd.kata.v2"))
    assert options.place(kata.settings.options, scope) == given(kata)


def test_kata_is_a_virtual_machine(tmp_path: Path) -> None:
    handler = build(tmp_path, shim.Config(path="/opt/containerd-shim-kata-v2", config_path="/etc/kata.toml"), "kata")
    assert handler.name == "kata"
    assert handler.capabilities.boundary is Boundary.VIRTUAL_MACHINE
    assert not handler.capabilities.host_network
    assert (handler.settings.sandbox, handler.settings.hand_over, handler.direct) == ("auto", True, False)
    assert given(handler).type_url == options.GENERIC
    assert pb.RuntimeOptions.FromString(given(handler).value).config_path == "/etc/kata.toml"
    assert "/etc/kata.toml" in handler.programs  # when that changes it is probed anew


def test_gvisors_options_are_text(tmp_path: Path) -> None:
    handler = build(tmp_path, shim.Config(path="io.containerd.runsc.v1", config="[runsc_config]\n"))
    assert handler.capabilities.boundary is Boundary.USER_KERNEL
    assert handler.settings.sandbox == "task"
    value = pb.RuntimeOptions.FromString(given(handler).value)
    assert (value.type_url, value.config_body) == ("io.containerd.runsc.v1.options", b"[runsc_config]\n")


def test_every_guess_can_be_corrected(tmp_path: Path) -> None:
    config = shim.Config(
        path="/opt/containerd-shim-mine-v1",
        boundary="unikernel",
        sandbox="none",
        rootfs="mounted",
        capabilities={"privileged": True, "port_forward": True},
        monitor="/opt/monitor",
        env={"A": "b"},
    )
    handler = build(tmp_path, config)
    assert handler.capabilities.boundary is Boundary.UNIKERNEL
    assert (handler.capabilities.privileged, handler.capabilities.port_forward) == (True, True)
    assert not handler.capabilities.host_pid
    settings = handler.settings
    assert (settings.sandbox, settings.hand_over, settings.logger) == ("none", False, "/opt/monitor")
    assert settings.env == {"A": "b"}


@pytest.mark.parametrize("name", ["flying", "boundary"])
def test_a_capability_that_there_is_not_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid, match=name):
        build(tmp_path, shim.Config(capabilities={name: True}))


def test_resources_are_what_is_set() -> None:
    asked = LinuxContainerResources(cpu_shares=512, memory_limit_in_bytes=1 << 20, unified={"memory.high": "1"})
    assert driver.linux_resources(asked) == {
        "cpu": {"shares": 512},
        "memory": {"limit": 1 << 20},
        "unified": {"memory.high": "1"},
    }
    assert driver.linux_resources(LinuxContainerResources()) == {}
