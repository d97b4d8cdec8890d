"""AppArmor is on in the guest: what confines containers there, what it keeps them from, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ropewalk.client import cri
from ropewalk.errors import RopewalkError
from ropewalk.spec import container, pod
from tests.vm import guest
from tests.vm.conftest import PodRunner

DEFAULT, UNCONFINED, LOCALHOST = pod.ProfileType
Profile = pod.SecurityProfile
CONFINED = "ropewalk-default (enforce)"
PARSER = "/usr/sbin/apparmor_parser"
SCRATCH = "/etc/apparmor.d/ropewalk-lab"


def linux(sandbox: guest.Pod, **fields: Any) -> container.LinuxContainerConfig:
    """Without a seccomp filter, so that what is refused is refused by AppArmor."""
    fields.setdefault("namespace_options", sandbox.spec.namespaces)
    return container.LinuxContainerConfig(security_context=container.LinuxContainerSecurityContext(**fields))


def label(lab: guest.Lab, sandbox: guest.Pod, name: str = "main") -> str:
    """The confinement of a container's first process, as the kernel tells the guest's root."""
    pid = lab.processes(sandbox.cgroup(name))[0]
    return lab.read(f"/proc/{pid}/attr/apparmor/current").strip()


def load(lab: guest.Lab, text: str) -> None:
    lab.vm.write(SCRATCH, text)
    lab.run(PARSER, "-r", "-W", SCRATCH)


async def sleeping(sandbox: guest.Pod, name: str = "main", **fields: Any) -> str:
    return await sandbox.start(name, "sleep", "600", linux=linux(sandbox, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"apparmor": Profile(DEFAULT)},
        {"apparmor_profile": "runtime/default"},
        {"no_new_privs": True, "run_as_user": 1000},
    ],
    ids=["unset", "default", "deprecated", "no new privileges"],
)
async def test_the_default_confines(
    lab: guest.Lab, client: cri.Client, run_pod: PodRunner, fields: dict[str, Any]
) -> None:
    """The container, a command in it, and their children."""
    sandbox = await run_pod()
    id = await sleeping(sandbox, **fields)
    assert label(lab, sandbox) == CONFINED
    done = await client.exec_sync(id, ["sh", "-c", "cat /proc/self/attr/apparmor/current"])
    assert done.stdout.strip().decode() == CONFINED


async def test_who_asks_for_none_has_none(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    sandbox = await run_pod()
    id = await sleeping(sandbox, apparmor=Profile(UNCONFINED))
    assert label(lab, sandbox) == "unconfined"
    done = await client.exec_sync(id, ["cat", "/proc/self/attr/apparmor/current"])
    assert done.stdout.strip() == b"unconfined"


async def test_privileged_containers_have_none(lab: guest.Lab, run_pod: PodRunner) -> None:
    options = pod.NamespaceOption(pid=pod.NamespaceMode.CONTAINER)
    context = pod.LinuxSandboxSecurityContext(namespace_options=options, privileged=True)
    sandbox = await run_pod(linux=pod.LinuxPodSandboxConfig(security_context=context))
    await sleeping(sandbox, privileged=True)
    assert label(lab, sandbox) == "unconfined"


# What a container that has the capabilities for it does unless AppArmor denies it.
ATTACKS = {
    "mount": "mkdir -p /m && mount -t tmpfs none /m",
    "bind": "mkdir -p /a /b && mount --bind /a /b",
    "remount": "mount -o remount,rw /sys",
    "kernel setting": "cat /proc/sys/kernel/sysrq >/proc/sys/kernel/sysrq",
    "core pattern": "cat /proc/sys/kernel/core_pattern >/proc/sys/kernel/core_pattern",
    "vm setting": "cat /proc/sys/vm/swappiness >/proc/sys/vm/swappiness",
    "sysrq": "echo h >/proc/sysrq-trigger",
    "another's root": "ls /proc/1/root/etc/hostname",
    "another's memory": "head -c 0 /proc/1/mem && cat /proc/1/environ",
    "a signal": "kill -0 1",
}
HARMLESS = {
    "files": "echo x >/file && rm /file && ls /proc /sys >/dev/null",
    "shared memory settings": "cat /proc/sys/kernel/shmmax >/proc/sys/kernel/shmmax",
    "own processes": "sleep 100 & kill -0 $! && cat /proc/$!/environ >/dev/null && ls /proc/$!/root/bin/sh && kill $!",
    "network": "ip addr >/dev/null && nc -l -p 4000 127.0.0.1 & sleep 0.3; echo | nc 127.0.0.1 4000",
}


@pytest.fixture
async def outside(run_pod: PodRunner) -> guest.Pod:
    """A pod whose containers see the node's processes."""
    options = pod.NamespaceOption(pid=pod.NamespaceMode.NODE)
    context = pod.LinuxSandboxSecurityContext(namespace_options=options)
    return await run_pod(linux=pod.LinuxPodSandboxConfig(security_context=context))


async def test_the_default_keeps_from_the_node(client: cri.Client, outside: guest.Pod) -> None:
    """Even with every capability, all namespaces but the mounts open, and no path masked."""
    held = container.Capability(add_capabilities=["SYS_ADMIN", "SYS_PTRACE", "KILL"])
    confined = await sleeping(outside, capabilities=held)
    free = await sleeping(outside, "free", capabilities=held, apparmor=Profile(UNCONFINED))
    for name, script in {**ATTACKS, **HARMLESS}.items():
        on_rw = "mount -o remount,rw /proc 2>/dev/null; mount -o remount,rw /proc/sys 2>/dev/null; "
        done = await client.exec_sync(free, ["sh", "-c", on_rw + script])
        assert done.exit_code == 0, (name, done.stderr)
        done = await client.exec_sync(confined, ["sh", "-c", script])
        assert (done.exit_code != 0) is (name in ATTACKS), (name, done.stdout, done.stderr)


async def test_the_node_signals_its_containers(client: cri.Client, run_pod: PodRunner) -> None:
    """A stop that a container could not hear would end in a kill after its grace period."""
    sandbox = await run_pod()
    script = "trap 'exit 7' TERM; echo waiting; while :; do sleep 0.1; done"
    id = await sandbox.start("main", "sh", "-c", script, linux=linux(sandbox))
    await sandbox.says("waiting")
    await client.stop(id, timeout=60)
    assert (await client.container_status(id)).exit_code == 7


async def test_a_lost_default_is_loaded_again(lab: guest.Lab, run_pod: PodRunner) -> None:
    sandbox = await run_pod()
    await sleeping(sandbox)
    lab.vm.write(SCRATCH, "profile ropewalk-default {\n}\n")
    lab.run(PARSER, "-R", SCRATCH)
    assert "ropewalk-default" not in lab.read("/sys/kernel/security/apparmor/profiles")
    await sleeping(sandbox, "second")
    assert label(lab, sandbox, "second") == CONFINED


async def test_profiles_come_and_go_under_a_running_daemon(
    lab: guest.Lab, client: cri.Client, run_pod: PodRunner
) -> None:
    sandbox = await run_pod()
    named = Profile(LOCALHOST, "localhost/ropewalk-lab-late")
    with pytest.raises(RopewalkError, match="'ropewalk-lab-late' is not loaded"):
        await sandbox.create("early", "true", linux=linux(sandbox, apparmor=named))
    load(lab, "profile ropewalk-lab-late flags=(attach_disconnected) {\n  file,\n  signal,\n  deny /forbidden w,\n}\n")
    id = await sleeping(sandbox, apparmor=named)
    assert label(lab, sandbox) == "ropewalk-lab-late (enforce)"
    assert (await client.exec_sync(id, ["sh", "-c", "echo >/allowed"])).exit_code == 0
    done = await client.exec_sync(id, ["sh", "-c", "echo >/forbidden"])
    assert (done.exit_code, b"Permission denied" in done.stderr) == (1, True)
    await client.stop(id, timeout=0)
    lab.run(PARSER, "-R", SCRATCH)
    with pytest.raises(RopewalkError, match="'ropewalk-lab-late' is not loaded"):
        await sandbox.create("late", "true", linux=linux(sandbox, apparmor=named))


async def test_a_profile_without_signals_does_not_keep_a_container(
    lab: guest.Lab, client: cri.Client, run_pod: PodRunner
) -> None:
    """It cannot be asked to stop, nor executed in, and yet it ends at once, and the pod can be removed."""
    load(lab, "profile ropewalk-lab-deaf flags=(attach_disconnected) {\n  file,\n}\n")
    sandbox = await run_pod()
    id = await sleeping(sandbox, apparmor=Profile(LOCALHOST, "ropewalk-lab-deaf"))
    with pytest.raises(RopewalkError) as caught:
        await client.exec_sync(id, ["true"])
    assert "signal (receive) peer=unconfined" in str(caught.value) + caught.value.hint
    await client.stop(id, timeout=400)
    assert (await client.container_status(id)).exit_code == 137
    await sleeping(sandbox, "second", apparmor=Profile(LOCALHOST, "ropewalk-lab-deaf"))
    await sandbox.remove()
    lab.run(PARSER, "-R", SCRATCH)


async def test_without_a_parser_it_is_said(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    """Who asks for the default is refused; who asks for nothing runs, as on a node that never had the package."""
    sandbox = await run_pod()
    lab.run("mv", PARSER, f"{PARSER}.away")
    try:
        lab.run("systemctl", "restart", "ropewalk", timeout=guest.READY)
        await lab.ready()
        await sleeping(sandbox)
        assert label(lab, sandbox) == "unconfined"
        assert "run unconfined" in lab.journal(40)
        with pytest.raises(RopewalkError, match="no default profile") as caught:
            await sandbox.create("second", "true", linux=linux(sandbox, apparmor=Profile(DEFAULT)))
        assert "apt-get install apparmor" in str(caught.value) + caught.value.hint
        shown = json.loads((await client.status(verbose=True)).info["appArmor"])
        assert shown["enabled"] is True
        assert "apparmor_parser" in shown["problem"]
    finally:
        lab.run("mv", f"{PARSER}.away", PARSER)
    await sleeping(sandbox, "third")
    assert label(lab, sandbox, "third") == CONFINED
    assert json.loads((await client.status(verbose=True)).info["appArmor"]) == {"enabled": True, "problem": ""}


# What critest asks of AppArmor (pkg/validate/apparmor_linux.go): its nine specs.

CRITEST = """\
#include <tunables/global>
profile cri-validate-apparmor-test-deny-write flags=(attach_disconnected) {
  #include <abstractions/base>
  file,
  deny /** w,
}
profile cri-validate-apparmor-test-audit-write flags=(attach_disconnected) {
  #include <abstractions/base>
  file,
  audit /** w,
}
"""
FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "deprecated": lambda name: {"apparmor_profile": f"localhost/{name}"},
    "field": lambda name: {"apparmor": Profile(LOCALHOST, f"localhost/{name}")},
    "field before deprecated": lambda name: {
        "apparmor_profile": "localhost/non-existent-profile",
        "apparmor": Profile(LOCALHOST, f"localhost/{name}"),
    },
}


@pytest.fixture(scope="module")
def critest_profiles(lab: guest.Lab) -> Iterator[None]:
    load(lab, CRITEST)
    yield
    lab.run(PARSER, "-R", SCRATCH)


@pytest.mark.usefixtures("critest_profiles")
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("non-existent-profile", None),
        ("cri-validate-apparmor-test-deny-write", 1),
        ("cri-validate-apparmor-test-audit-write", 0),
    ],
    ids=["unloaded", "blocking", "permissive"],
)
async def test_what_critest_asks(run_pod: PodRunner, field: str, name: str, code: int | None) -> None:
    sandbox = await run_pod()
    config = linux(sandbox, **FIELDS[field](name))
    if code is None:
        with pytest.raises(RopewalkError):
            await sandbox.create("main", "touch", "/tmp/foo", linux=config)
        return
    id = await sandbox.start("main", "touch", "/tmp/foo", linux=config)
    async with asyncio.timeout(60):
        assert (await sandbox.exited(id)).exit_code == code
