"""What critest's [Security Context] asserts, as the process in the container sees it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ropewalk.client import cri
from ropewalk.errors import Kind, RopewalkError
from ropewalk.spec.container import Capability, Mount
from ropewalk.spec.pod import (
    IDMapping,
    NamespaceMode,
    ProfileType,
    SecurityProfile,
    SupplementalGroupsPolicy,
    UserNamespace,
)
from tests.fakes.boxes import BUSYBOX
from tests.node.cri.shells import Shells

IDENTITY = "id -u; id -g; id -G"
STATUS = "grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status"
UNCONFINED = SecurityProfile(profile_type=ProfileType.UNCONFINED)


def fields(text: str) -> dict[str, str]:
    """Of a /proc/PID/status: name → value."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


@pytest.mark.parametrize(
    ("security", "identity"),
    [
        ({"run_as_user": 1001}, ["1001", "0", {0}]),
        ({"run_as_username": "nobody"}, ["65534", "65534", {65534}]),
        ({"run_as_user": 1001, "run_as_group": 1002}, ["1001", "1002", {1002}]),
        ({"supplemental_groups": [1234, 5678]}, ["0", "0", {0, 1234, 5678}]),
        ({"run_as_user": 1000, "supplemental_groups": [1234]}, ["1000", "1000", {1000, 50, 1234}]),
        (
            {
                "run_as_user": 1000,
                "supplemental_groups": [1234],
                "supplemental_groups_policy": SupplementalGroupsPolicy.STRICT,
            },
            ["1000", "1000", {1000, 1234}],
        ),
    ],
    ids=["user", "name", "group", "supplemental", "merge", "strict"],
)
async def test_the_identity_is_the_one_asked_for_and_the_one_told(
    shells: Shells, security: dict[str, Any], identity: list[Any]
) -> None:
    pod = await shells.pod()
    said = await shells.say(IDENTITY, of=pod, security=security)
    uid, gid, groups = said.stdout.splitlines()
    assert [uid, gid, set(map(int, groups.split()))] == identity
    told = said.status.user.linux
    assert [str(told.uid), str(told.gid), set(told.supplemental_groups)] == identity
    running = await shells.start(pod, "sleep", "600", security=security)
    executed = await shells.client.exec_sync(running, ["id", "-G"])
    assert set(map(int, executed.stdout.split())) == identity[2]


async def test_a_group_without_a_user_is_refused(shells: Shells) -> None:
    with pytest.raises(RopewalkError, match="run_as_group"):
        await shells.say("true", security={"run_as_group": 1002})


@pytest.mark.parametrize("readonly", [True, False])
async def test_the_root_file_system_is_read_only_or_not(shells: Shells, *, readonly: bool) -> None:
    said = await shells.say("touch test.go && [ -f test.go ] && echo Found", security={"readonly_rootfs": readonly})
    assert said.stdout == ("" if readonly else "Found\n")
    assert said.stderr == ("touch: test.go: Read-only file system\n" if readonly else "")


@pytest.mark.parametrize(
    ("security", "works"),
    [
        ({"privileged": True}, True),
        ({"privileged": False}, False),
        ({"capabilities": Capability(add_capabilities=["NET_ADMIN"])}, True),
        ({"capabilities": Capability(add_capabilities=["ALL"])}, True),
    ],
    ids=["privileged", "not privileged", "NET_ADMIN", "ALL"],
)
async def test_a_bridge_is_made_by_who_may(shells: Shells, security: dict[str, Any], *, works: bool) -> None:
    said = await shells.say("ip link add foobar type bridge && echo made", security=security)
    assert (said.stdout == "made\n") is works, said


async def test_a_dropped_capability_is_missed(shells: Shells) -> None:
    drop = {"capabilities": Capability(drop_capabilities=["NET_RAW"])}
    said = await shells.say("ping -c 1 -W 1 127.0.0.1; ping -c 1 -W 1 127.0.0.1 >&2", security=drop)
    assert said.status.exit_code == 1
    assert "ermission denied" in said.stderr


@pytest.mark.parametrize("change", ["add", "drop"])
async def test_all_capabilities_are_all_that_there_are(shells: Shells, change: str) -> None:
    said = await shells.say(STATUS, security={"capabilities": Capability(**{f"{change}_capabilities": ["ALL"]})})
    expected = int(fields(Path("/proc/self/status").read_text())["CapBnd"], 16) if change == "add" else 0
    assert int(fields(said.stdout)["CapBnd"], 16) == expected


async def test_masked_and_read_only_paths(shells: Shells) -> None:
    security = {"masked_paths": ["/etc/group", "/home/tester"], "readonly_paths": ["/tmp"]}
    said = await shells.say("cat /etc/group; ls -A /home/tester; touch /tmp/test", security=security)
    assert said == ("", "touch: /tmp/test: Read-only file system\n", said.status)
    assert said.status.exit_code == 1


@pytest.mark.parametrize(
    ("profile", "mode"),
    [(None, "0"), (UNCONFINED, "0"), (SecurityProfile(), "2")],
    ids=["none", "unconfined", "default"],
)
async def test_the_seccomp_mode(shells: Shells, profile: SecurityProfile | None, mode: str) -> None:
    assert fields((await shells.say(STATUS, security={"seccomp": profile})).stdout)["Seccomp"] == mode


@pytest.fixture
def profile(tmp_path: Path) -> SecurityProfile:
    """Forbids chmod and sethostname."""
    file = tmp_path / "block.json"
    names = ["chmod", "fchmod", "fchmodat", "sethostname"]
    rules = [{"names": names, "action": "SCMP_ACT_ERRNO"}]
    file.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}))
    return SecurityProfile(profile_type=ProfileType.LOCALHOST, localhost_ref=str(file))


async def test_a_profile_of_the_node_confines_all_but_the_privileged(shells: Shells, profile: SecurityProfile) -> None:
    admin = Capability(add_capabilities=["SYS_ADMIN"])
    script = "chmod 400 /bin/ls; hostname new; hostname"
    said = await shells.say(script, security={"seccomp": profile, "capabilities": admin})
    assert "Operation not permitted" in said.stderr
    assert said.stdout != "new\n"
    assert (await shells.say(script, security={"seccomp": UNCONFINED, "capabilities": admin})).stdout == "new\n"
    assert (await shells.say(script, security={"seccomp": profile, "privileged": True})).stdout == "new\n"


@pytest.fixture
def setuid(tmp_path: Path) -> Mount:
    """busybox as su, root's and with the setuid bit."""
    program = tmp_path / "busybox"
    shutil.copy(BUSYBOX, program)
    program.chmod(0o4755)
    return Mount("/su", str(program))


@pytest.mark.parametrize("forbidden", [True, False])
async def test_new_privileges(shells: Shells, setuid: Mount, *, forbidden: bool) -> None:
    """su looks at its effective user before it does anything else."""
    security = {"no_new_privs": forbidden, "run_as_user": 1000}
    said = await shells.say(f"{STATUS}; /su", security=security, mounts=[setuid])
    assert fields(said.stdout)["NoNewPrivs"] == str(int(forbidden))
    assert ("must be suid" in said.stderr.replace("\n", "")) is forbidden, said


# Namespaces.


async def test_pids_are_the_pods_the_containers_or_the_nodes(shells: Shells) -> None:
    script = "cat /proc/1/comm; true"
    assert (await shells.say(script, of=await shells.pod(pid=NamespaceMode.CONTAINER))).stdout == "sh\n"
    shared = await shells.pod(pid=NamespaceMode.POD)
    assert (await shells.say(script, of=shared)).stdout == "catatonit\n"
    await shells.start(shared, "sleep", "7654")
    async with asyncio.timeout(30):
        while "sleep 7654" not in (await shells.say("ps", of=shared)).stdout:
            await asyncio.sleep(0.05)  # `start` returns before the process has come to its exec
    node = await shells.say(f"cat /proc/{os.getpid()}/comm", of=await shells.pod(pid=NamespaceMode.NODE))
    assert node.stdout == Path("/proc/self/comm").read_text()


@pytest.mark.parametrize("network", [NamespaceMode.NODE, NamespaceMode.POD])
async def test_a_listener_of_the_node_is_seen_from_its_network(shells: Shells, network: NamespaceMode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listed = await shells.say("netstat -ln", of=await shells.pod(network=network))
    assert (f"127.0.0.1:{port} " in listed.stdout) is (network is NamespaceMode.NODE)


@pytest.mark.parametrize("ipc", [NamespaceMode.NODE, NamespaceMode.POD])
async def test_shared_memory_of_the_node_is_seen_from_its_ipc(shells: Shells, ipc: NamespaceMode) -> None:
    made = subprocess.run(["ipcmk", "-M", "4096"], capture_output=True, text=True, check=True)
    id = made.stdout.split()[-1]
    try:
        listed = await shells.say("cat /proc/sysvipc/shm", of=await shells.pod(ipc=ipc))
    finally:
        subprocess.run(["ipcrm", "-m", id], check=True)
    assert (id in listed.stdout.split()) is (ipc is NamespaceMode.NODE)


MAP = [IDMapping(host_id=1 << 20, container_id=0, length=65536)]


@pytest.mark.parametrize("users", [UserNamespace(NamespaceMode.POD, MAP, MAP), UserNamespace(NamespaceMode.NODE)])
async def test_users_are_the_pods_or_the_nodes(shells: Shells, users: UserNamespace) -> None:
    (line,) = (await shells.say("cat /proc/self/uid_map", of=await shells.pod(users=users))).stdout.splitlines()
    of_node = Path("/proc/self/uid_map").read_text().split()
    assert line.split() == (of_node if users.mode is NamespaceMode.NODE else ["0", "1048576", "65536"])


@pytest.mark.parametrize(
    ("users", "named"),
    [
        (UserNamespace(NamespaceMode.POD, MAP * 2, MAP * 2), "uids"),
        (UserNamespace(NamespaceMode.POD, [IDMapping(1 << 20, 1, 9)], [IDMapping(1 << 20, 1, 9)]), "uids"),
        (UserNamespace(NamespaceMode.CONTAINER), "CONTAINER"),
        (UserNamespace(NamespaceMode.TARGET), "TARGET"),
    ],
    ids=["two mappings", "no id 0", "container", "target"],
)
async def test_users_that_cannot_be_are_refused(shells: Shells, users: UserNamespace, named: str) -> None:
    with pytest.raises(RopewalkError, match=named) as caught:
        await shells.pod(users=users)
    assert caught.value.kind is Kind.INVALID


async def test_features_are_told(client: cri.Client) -> None:
    status = await client.status()
    assert status.features.supplemental_groups_policy
    told = {handler.name: handler.features for handler in status.runtime_handlers}
    assert all(told[name].recursive_read_only_mounts for name in ("", "crun", "runc"))
    assert all(told[name].user_namespaces for name in ("", "crun", "runc"))
