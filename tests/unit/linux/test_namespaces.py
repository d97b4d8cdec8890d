from __future__ import annotations

import pytest

from ropewalk import errors
from ropewalk.linux import namespaces


@pytest.mark.parametrize(
    ("name", "path", "kind"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward", "net"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding", "net"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding", "net"),
        ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced", "ipc"),
        ("kernel.msgmax", "kernel/msgmax", "ipc"),
        ("kernel.sem", "kernel/sem", "ipc"),
        ("fs.mqueue.msg_max", "fs/mqueue/msg_max", "ipc"),
        ("kernel.hostname", "kernel/hostname", "uts"),
        ("kernel.panic", "kernel/panic", ""),
        ("vm.overcommit_memory", "vm/overcommit_memory", ""),
    ],
)
def test_sysctl_names(name: str, path: str, kind: str) -> None:
    assert namespaces.sysctl_path(name) == path
    assert namespaces.sysctl_namespace(name) == kind


@pytest.mark.parametrize("name", ["", "net..x", "net/../kernel/panic", "/net/x", "net.ipv4.", "a/./b"])
def test_sysctl_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(errors.Invalid):
        namespaces.sysctl_path(name)


def test_a_sysctl_of_the_node_is_refused() -> None:
    with pytest.raises(errors.Invalid, match="not namespaced"):
        namespaces.check_sysctls(["kernel.panic"], ["net", "ipc", "uts"])
    with pytest.raises(errors.Invalid, match="its net namespace is the node's"):
        namespaces.check_sysctls(["net.core.somaxconn"], ["ipc"])
    namespaces.check_sysctls(["net.core.somaxconn", "kernel.msgmax"], ["ipc", "net"])


def test_a_hostname_without_a_namespace_of_its_own_is_refused() -> None:
    with pytest.raises(errors.Invalid):
        namespaces.make(["ipc"], {"ipc": "/nonexistent"}, hostname="x")
