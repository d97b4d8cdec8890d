"""Built specs, run by crun itself: what the container sees and may do, from inside."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from ropewalk.linux import caps, cgroup, mount, namespaces, spawn
from ropewalk.runtimes.oci import build, capabilities, facts, resolve
from ropewalk.spec import container, pod
from tests.node.runtimes import calls
from tests.unit.runtimes.oci import samples
from tools import trace

PARENT = f"/{trace.own_names()}spec"
DEFAULT, UNCONFINED, LOCALHOST = pod.ProfileType
EPERM, ENOSYS = 1, 38
APPLETS = ("sh", "cat", "id", "env", "mknod", "head", "touch", "ls", "readlink", "mount", "mkdir", "chmod", "rm")

pytestmark = pytest.mark.skipif(
    shutil.which("crun") is None or shutil.which("busybox") is None, reason="crun and busybox-static are needed"
)


class Place:
    """A bundle with a busybox root file system, pinned namespaces, and the node's true facts."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.cgroups = cgroup.detect()
        self.node = facts.NodeFacts(
            capabilities=caps.bounding(),
            cgroup_version=self.cgroups.version,
            architecture=os.uname().machine,
            can_lower_oom="CAP_SYS_RESOURCE" in caps.effective(),
            oom_score_adj=int(pathlib.Path("/proc/self/oom_score_adj").read_text()),
            swap=False,
        )
        self.pins = {kind: str(root / f"ns-{kind}") for kind in ("net", "ipc", "uts")}
        self.paths = {"network": self.pins["net"], "ipc": self.pins["ipc"], "uts": self.pins["uts"]}
        self.count = 0
        namespaces.make(self.pins, self.pins, hostname="web-0")
        self.files = {f"/etc/{name}": str(root / name) for name in ("hostname", "hosts", "resolv.conf")}
        for path in self.files.values():
            pathlib.Path(path).write_text(f"{os.path.basename(path)}\n")
        (root / "shm").mkdir()
        self.files["/dev/shm"] = str(root / "shm")
        self.rootfs = root / "rootfs"
        self.make_rootfs()

    def make_rootfs(self) -> None:
        for directory in ("bin", "etc", "tmp"):
            (self.rootfs / directory).mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, self.rootfs / "bin" / "busybox")
        for applet in APPLETS:
            os.link(self.rootfs / "bin" / "busybox", self.rootfs / "bin" / applet)

    def close(self) -> None:
        for path in self.pins.values():
            namespaces.unpin(path)
        asyncio.run(self.cgroups.remove(PARENT))

    def inputs(self, command: list[str], *, node: dict[str, Any] | None = None, **fields: Any) -> build.Inputs:
        context = fields.pop("security", None) or samples.security()
        rest = {name: fields.pop(name) for name in ("envs", "working_dir") if name in fields}
        limits = fields.pop("resources", None)
        spec = samples.container_spec(context, limits, command=command, **rest)
        defaults: dict[str, Any] = {
            "container": spec,
            "namespaces": self.paths,
            "files": self.files,
            "cgroup_path": f"{PARENT}/{self.count}",
            "node": msgspec.structs.replace(self.node, **(node or {})),
        }
        return samples.inputs(**{**defaults, **fields})

    def run(self, inputs: build.Inputs) -> bytes:
        """Standard output of the container."""
        return asyncio.run(self.crun("run", build.build(inputs).spec))

    def shell(self, script: str, **fields: Any) -> str:
        return self.run(self.inputs(["/bin/sh", "-c", script], **fields)).decode()

    async def crun(self, verb: str, spec: dict[str, Any], *options: str) -> bytes:
        self.count += 1
        (self.root / "config.json").write_bytes(build.encode(spec))
        name = f"{trace.own_names()}{self.count}"
        done = await self.command(verb, *options, "--bundle", str(self.root), name)
        assert done.code == 0, done.stderr.decode() + done.stdout.decode()
        return done.stdout

    async def command(self, *arguments: str) -> spawn.Completed:
        return await spawn.run(
            ["crun", "--cgroup-manager=cgroupfs", "--root", str(self.root / "state"), *arguments], timeout=30
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("spec"))
    yield made
    made.close()


def parse_status(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {key: value.strip() for key, _, value in pairs}


def status(place: Place, **fields: Any) -> dict[str, str]:
    return parse_status(place.shell("cat /proc/self/status", **fields))


def capability_sets(found: dict[str, str]) -> dict[str, frozenset[str]]:
    return {name: caps.parse_mask(found[name]) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}


def test_root_has_the_fourteen_and_nothing_inheritable(place: Place) -> None:
    found = status(place)
    own = capabilities.DEFAULT
    none: frozenset[str] = frozenset()
    assert capability_sets(found) == {"CapInh": none, "CapPrm": own, "CapEff": own, "CapBnd": own, "CapAmb": none}
    assert found["Groups"].split() == ["0", "4"]
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("0", "0")


def test_another_user_has_only_a_bounding_set(place: Place) -> None:
    context = samples.security(
        run_as_user=1000,
        run_as_group=1001,
        supplemental_groups=[1234],
        no_new_privs=True,
        seccomp=pod.SecurityProfile(),
    )
    found = status(place, security=context)
    sets = capability_sets(found)
    assert sets["CapBnd"] == capabilities.DEFAULT
    assert not (sets["CapEff"] | sets["CapPrm"] | sets["CapInh"] | sets["CapAmb"])
    assert found["Uid"].split() == ["1000"] * 4
    assert found["Gid"].split() == ["1001"] * 4
    assert sorted(map(int, found["Groups"].split())) == [4, 1001, 1234, 50000]
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


def test_ambient_capabilities_reach_another_user(place: Place) -> None:
    asked = container.Capability(add_ambient_capabilities=["NET_BIND_SERVICE"], drop_capabilities=["ALL"])
    sets = capability_sets(status(place, security=samples.security(run_as_user=1000, capabilities=asked)))
    assert set(sets.values()) == {frozenset({"CAP_NET_BIND_SERVICE"})}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (container.Capability(["ALL"]), caps.bounding()),
        (container.Capability(drop_capabilities=["ALL"]), frozenset()),
        (
            container.Capability(["NET_ADMIN"], ["NET_RAW"]),
            capabilities.DEFAULT - {"CAP_NET_RAW"} | {"CAP_NET_ADMIN"},
        ),
    ],
)
def test_added_and_dropped(place: Place, asked: container.Capability, expected: frozenset[str]) -> None:
    sets = capability_sets(status(place, security=samples.security(capabilities=asked)))
    assert sets["CapBnd"] == sets["CapEff"] == expected
    assert not sets["CapInh"]


def test_privileged_has_what_the_daemon_has(place: Place) -> None:
    devices = resolve.read_node_devices()
    script = "cat /proc/self/status; touch /sys/fs/cgroup/x 2>&1; ls /dev; mount -o remount,rw /sys && echo remounted"
    text = place.shell(
        script,
        pod=samples.pod_spec(privileged=True),
        security=samples.security(privileged=True, seccomp=pod.SecurityProfile()),
        node_devices=devices,
    )
    found = parse_status(text)
    assert capability_sets(found)["CapEff"] == caps.bounding()
    assert found["Seccomp"] == "0"
    assert "remounted" in text
    block = [os.path.basename(device.path) for device in devices if device.type == "b"][:1]
    assert all(name in text.split() for name in block)


def test_masked_and_readonly_paths(place: Place) -> None:
    script = """
        cat /proc/keys /proc/timer_list; ls -A /sys/firmware
        echo 1 > /proc/sys/kernel/printk; echo 1 > /proc/sys/vm/swappiness; touch /sys/x; mkdir $CGROUP/x; echo done
    """
    asked = samples.security(masked_paths=["/proc/keys", "/proc/timer_list", "/sys/firmware"])
    own = {1: "/sys/fs/cgroup/memory", 2: "/sys/fs/cgroup"}[place.node.cgroup_version]
    text = place.shell(f"exec 2>&1; CGROUP={own}; {script}", security=asked)
    lines = text.splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == [*["Read-only file system"] * 4, "done"]


def test_devices_are_denied_unless_listed(place: Place) -> None:
    script = """
        exec 2>&1
        mknod /tmp/mem c 1 1; cat < /tmp/mem; mknod /tmp/loop b 7 0; cat < /tmp/loop; rm /tmp/mem /tmp/loop
        echo x > /dev/null && head -c 1 /dev/zero > /dev/full; head -c 0 /dev/urandom && echo fine
        head -c 1 /dev/kmsg > /dev/null && echo read; echo x > /dev/kmsg; ls /dev
    """
    refused = "Operation not permitted"
    lines = place.shell(script).splitlines()
    assert [line.rpartition(": ")[2] for line in lines[:4]] == [refused, refused, "No space left on device", "fine"]
    assert "kmsg" in lines  # the shell's redirection made an ordinary file
    # Listed for reading only: the node is there, and the device cgroup tells the two apart.
    kmsg = resolve.read_devices([container.Device("/dev/kmsg", "/dev/kmsg", "r")])
    syslog = samples.security(capabilities=container.Capability(["SYSLOG"]))
    lines = place.shell(script, devices=kmsg, security=syslog).splitlines()
    assert "read" in lines
    assert f"/bin/sh: can't create /dev/kmsg: {refused}" in lines


def test_files_hostname_namespaces_and_environment(place: Place) -> None:
    script = """
        cat /etc/hosts /etc/hostname; env; echo secret > /dev/shm/x
        for kind in net ipc uts pid mnt; do readlink /proc/self/ns/$kind; done
        cat /proc/sys/kernel/hostname; echo pid $$
    """
    text = place.shell(script, envs=[container.KeyValue("ODD", b"a\xe9b"), container.KeyValue("FINE", "é😀".encode())])
    lines = text.splitlines()
    assert {"hosts", "hostname", "web-0", "HOSTNAME=web-0", "HOME=/root", "FINE=é😀", "ODD=a\ufffdb"} <= set(lines)
    assert "pid 1" in lines
    pinned = {f"{kind}:[{os.stat(path).st_ino}]" for kind, path in place.pins.items()}
    assert pinned <= set(lines)
    assert os.readlink("/proc/self/ns/pid") not in lines
    assert (place.root / "shm" / "x").read_text() == "secret\n"


def test_mounts(place: Place, tmp_path: pathlib.Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "file").write_text("content\n")

    def at(path: str, source: pathlib.Path, **fields: Any) -> facts.ResolvedMount:
        return facts.ResolvedMount(container.Mount(path, str(source), **fields), str(source))

    slave = container.MountPropagation.HOST_TO_CONTAINER
    requested = [
        at("/a/b", tmp_path / "deep", propagation=slave),
        at("/a", tmp_path, readonly=True, mount_options=["noexec", "nodev"]),
        at("/etc/hosts", tmp_path / "file"),
    ]
    script = "exec 2>&1; cat /etc/hosts; touch /a/x; touch /a/b/y && echo wrote; cat /proc/self/mountinfo"
    text = place.shell(script, mounts=requested, security=samples.security(readonly_rootfs=True))
    assert text.startswith("content\n")
    assert "touch: /a/x: Read-only file system" in text
    assert (tmp_path / "deep" / "y").exists()
    table = {entry.target: entry for entry in map(mount.parse_line, text.splitlines()[3:])}
    assert {"ro", "noexec", "nodev"} <= set(table["/a"].options.split(","))
    assert "rw" in table["/a/b"].options.split(",")
    assert "ro" in table["/"].options.split(",")
    assert "ro" in table["/etc/hostname"].options.split(",")


def test_limits_reach_the_cgroup(place: Place) -> None:
    limits = pod.LinuxContainerResources(
        memory_limit_in_bytes=64 << 20, cpu_shares=512, cpu_quota=20000, cpu_period=100000, oom_score_adj=999
    )
    files = {
        1: "memory/memory.limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us",
        2: "memory.max cpu.max",
    }[place.node.cgroup_version]
    text = place.shell(f"cd /sys/fs/cgroup; cat {files} /proc/self/oom_score_adj; true", resources=limits)
    expected = (
        ["67108864", "512", "20000", "999"] if place.node.cgroup_version == 1 else ["67108864", "20000 100000", "999"]
    )
    assert text.splitlines() == expected


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the program is for x86-64")
def test_the_default_filter_in_every_call_table(place: Place) -> None:
    asked = [calls.Call(table, *call) for table, of in calls.SAMPLE.items() for call in of.values()]
    names = [f"{table} {name}" for table, of in calls.SAMPLE.items() for name in of]
    asked += [calls.Call("i386", 102, (1,), (family, 1, 0)) for family in (38, 2)]
    names += ["i386 socketcall alg", "i386 socketcall inet"]
    (place.rootfs / "bin" / "calls").write_bytes(calls.program(asked))
    (place.rootfs / "bin" / "calls").chmod(0o755)

    def found(security: container.LinuxContainerSecurityContext) -> dict[str, int]:
        output = place.run(place.inputs(["/bin/calls"], security=security))
        return dict(zip(names, calls.results(output), strict=True))

    filtered = found(samples.security(seccomp=pod.SecurityProfile()))
    open_calls = {"x86_64 getpid": 1, "i386 getpid": 1}
    if filtered["i386 getpid"] == -ENOSYS:  # a kernel without 32-bit calls
        open_calls.pop("i386 getpid")
        filtered = {name: value for name, value in filtered.items() if not name.startswith("i386")}
    assert {name: filtered[name] for name in open_calls} == open_calls
    sockets = [name for name in filtered if name.endswith("socket inet") or "socketcall" in name]
    assert all(filtered[name] >= 0 for name in sockets if "alg" not in name)
    refused = {name: value for name, value in filtered.items() if name not in open_calls and name not in sockets}
    assert refused == {name: -ENOSYS if name.endswith("clone3") else -EPERM for name in refused}
    # Without the filter the same calls get further, so the answers above are the filter's.
    unconfined = found(samples.security())
    assert unconfined["x86_64 personality"] != -EPERM
    assert unconfined["x86_64 socket alg"] != -EPERM


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 belongs to x86-64")
def test_x32_calls_end_the_program(place: Place) -> None:
    (place.rootfs / "bin" / "x32").write_bytes(calls.program([calls.Call("x32", 39)]))
    (place.rootfs / "bin" / "x32").chmod(0o755)
    text = place.shell("/bin/x32 >/dev/null; echo $?", security=samples.security(seccomp=pod.SecurityProfile()))
    assert text.strip() == "159"  # 128 + SIGSYS


def test_a_profile_file_of_the_node(place: Place) -> None:
    names = ["chmod", "fchmod", "fchmodat", "fchmodat2"]
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
    }
    text = place.shell(
        "exec 2>&1; touch /tmp/f; chmod 700 /tmp/f; echo $?",
        security=samples.security(seccomp=pod.SecurityProfile(LOCALHOST, "/p.json")),
        seccomp_profile=json.dumps(profile).encode(),
    )
    assert text == "chmod: /tmp/f: Permission denied\n1\n"


def test_the_pods_init_holds_a_pid_namespace(place: Place) -> None:
    init = shutil.which("catatonit")
    if init is None:
        pytest.skip("catatonit is needed")
    shutil.copy(init, place.rootfs / "catatonit")
    asked = samples.pod_spec(pid=pod.NamespaceMode.POD)
    context = msgspec.structs.replace(asked.linux.security_context, supplemental_groups=[1234])
    spec = build.init_spec(
        msgspec.structs.replace(asked, linux=msgspec.structs.replace(asked.linux, security_context=context)),
        id=samples.POD_ID,
        namespaces=place.paths,
        cgroup_path=f"{PARENT}/init",
        node=place.node,
    )
    asyncio.run(hold(place, spec))


async def hold(place: Place, spec: dict[str, Any]) -> None:
    """Starts the init, joins its PID namespace with a container, ends it with SIGTERM."""
    pid_file = place.root / "init.pid"
    await place.crun("run", spec, "--detach", "--pid-file", str(pid_file))
    name = f"{trace.own_names()}{place.count}"
    pid = int(pid_file.read_text())
    try:
        while pathlib.Path(f"/proc/{pid}/comm").read_text() != "catatonit\n":  # `run` may return before the exec
            await asyncio.sleep(0.001)
        found = parse_status(pathlib.Path(f"/proc/{pid}/status").read_text())
        assert found["Uid"].split() == ["65534"] * 4
        assert found["Groups"].split() == ["1234"]
        assert not any(capability_sets(found).values())
        assert found["NoNewPrivs"] == "1"
        assert found["NSpid"].split()[-1] == "1"
        joined = build.build(
            place.inputs(
                ["/bin/sh", "-c", "echo $$; cat /proc/1/comm"],
                pod=samples.pod_spec(pid=pod.NamespaceMode.POD),
                namespaces={**place.paths, "pid": f"/proc/{pid}/ns/pid"},
                security=samples.security(namespace_options=pod.NamespaceOption()),
            )
        )
        own, comm = (await place.crun("run", joined.spec)).decode().split()
        assert own != "1"
        assert comm == "catatonit"
        fd = os.pidfd_open(pid)
        await place.command("kill", name, "TERM")
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, ended.set)
        async with asyncio.timeout(30):
            await ended.wait()
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
    finally:
        await place.command("delete", "--force", name)
