"""Whole specs against golden files, and what a spec promises whatever the request."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ropewalk import errors
from ropewalk.runtimes.oci import build, facts, seccomp
from ropewalk.spec import container, image, pod
from tests.unit.runtimes.oci import golden, samples

MODE = pod.NamespaceMode
FUSE = facts.HostDevice("/dev/fuse", "c", 10, 229, 0o666, permissions="rw")
SDA = facts.HostDevice("/dev/sda", "b", 8, 0, 0o660, gid=6)


def mount(path: str, source: str = "/srv/data", **fields: Any) -> facts.ResolvedMount:
    return facts.ResolvedMount(container.Mount(container_path=path, host_path=source, **fields), source)


def privileged_inputs() -> build.Inputs:
    return samples.inputs(
        pod=samples.pod_spec(privileged=True),
        container=samples.container_spec(samples.security(privileged=True)),
        node_devices=[SDA, facts.HostDevice("/dev/null", "c", 1, 3)],
    )


CASES: dict[str, build.Inputs] = {
    "default": samples.inputs(),
    "privileged": privileged_inputs(),
    "host-network": samples.inputs(pod=samples.pod_spec(network=MODE.NODE)),
    "host-everything": samples.inputs(
        pod=samples.pod_spec(network=MODE.NODE, pid=MODE.NODE, ipc=MODE.NODE),
        container=samples.container_spec(samples.security(namespace_options=pod.NamespaceOption(pid=MODE.NODE))),
    ),
    "pid-shared": samples.inputs(
        pod=samples.pod_spec(pid=MODE.POD),
        container=samples.container_spec(samples.security(namespace_options=pod.NamespaceOption())),
    ),
    "pid-target": samples.inputs(
        container=samples.container_spec(
            samples.security(namespace_options=pod.NamespaceOption(pid=MODE.TARGET, target_id="a"))
        ),
        namespaces={**samples.NAMESPACES, "pid": "/proc/42/ns/pid"},
    ),
    "user": samples.with_security(
        run_as_user=1000,
        run_as_group=1001,
        supplemental_groups=[1234],
        no_new_privs=True,
        capabilities=container.Capability(add_capabilities=["net_admin"], drop_capabilities=["MKNOD"]),
    ),
    "user-of-image": samples.inputs(image=image.ImageConfig(user="app:team", cmd=["id"], working_dir="/srv/./app/")),
    "ambient": samples.with_security(
        run_as_user=1000, capabilities=container.Capability(add_ambient_capabilities=["NET_BIND_SERVICE"])
    ),
    "mounts": samples.inputs(
        mounts=[
            mount("/data/deep/er", readonly=True),
            mount("/data", propagation=container.MountPropagation.HOST_TO_CONTAINER),
            mount("/etc/hosts", "/var/lib/kubelet/hosts", mount_options=["noexec", "nosuid"]),
            mount("/shared", propagation=container.MountPropagation.BIDIRECTIONAL),
        ]
    ),
    "resources": samples.inputs(
        container=samples.container_spec(
            resources=pod.LinuxContainerResources(
                cpu_period=100000,
                cpu_quota=20000,
                cpu_shares=512,
                cpuset_cpus="0-1",
                cpuset_mems="0",
                memory_limit_in_bytes=64 << 20,
                oom_score_adj=999,
                hugepage_limits=[pod.HugepageLimit("2MB", 0), pod.HugepageLimit("1GB", 0)],
                unified={"memory.oom.group": "1"},
            )
        )
    ),
    "readonly": samples.with_security(readonly_rootfs=True),
    "tty": samples.inputs(container=samples.container_spec(tty=True, stdin=True, args=["-l"], command=["bash"])),
    "seccomp-default": samples.with_security(seccomp=pod.SecurityProfile()),
    "seccomp-localhost": msgspec.structs.replace(
        samples.with_security(seccomp=pod.SecurityProfile(pod.ProfileType.LOCALHOST, "/profiles/p.json")),
        seccomp_profile=b'{"defaultAction": "SCMP_ACT_LOG", "architectures": ["SCMP_ARCH_X86_64"]}',
    ),
    "cgroup-v1": samples.replace_node(
        samples.with_security(run_as_username="app"), cgroup_version=1, can_lower_oom=False, oom_score_adj=5
    ),
    "devices": samples.inputs(devices=[FUSE]),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    golden.check(name, build.build(CASES[name]).spec)


def test_golden_init() -> None:
    paths = {kind: samples.NAMESPACES[kind] for kind in ("network", "ipc", "uts")}
    spec = build.init_spec(
        samples.pod_spec(pid=MODE.POD),
        id=samples.POD_ID,
        namespaces=paths,
        cgroup_path="/kubepods/pod0/init",
        node=facts.NodeFacts(),
    )
    golden.check("init", spec)


def test_an_init_is_whom_its_pod_asks_for() -> None:
    asked = pod.LinuxSandboxSecurityContext(run_as_user=7, run_as_group=8, supplemental_groups=[12, 11, 12])
    spec = replace(samples.pod_spec(pid=MODE.POD), linux=pod.LinuxPodSandboxConfig(security_context=asked))
    made = build.init_spec(spec, id="p", namespaces={}, cgroup_path="/p", node=facts.NodeFacts())
    assert made["process"]["user"] == {"uid": 7, "gid": 8, "additionalGids": [11, 12]}


def test_the_filter_of_an_init_is_the_one_its_pod_asks_for() -> None:
    """As containerd's pause: none if nothing is said, none if privileged."""

    def filter(profile: bytes | None = None, **fields: Any) -> Any:
        asked = pod.LinuxSandboxSecurityContext(**fields)
        spec = replace(samples.pod_spec(pid=MODE.POD), linux=pod.LinuxPodSandboxConfig(security_context=asked))
        made = build.init_spec(
            spec, id="p", namespaces={}, cgroup_path="/p", node=facts.NodeFacts(), seccomp_profile=profile
        )
        return made["linux"].get("seccomp")

    default = pod.SecurityProfile(pod.ProfileType.RUNTIME_DEFAULT)
    assert filter() is None
    assert filter(seccomp=pod.SecurityProfile(pod.ProfileType.UNCONFINED)) is None
    assert filter(seccomp=default, privileged=True) is None
    assert filter(seccomp=default) == seccomp.default_profile(frozenset(), facts.NodeFacts().architecture)
    assert filter(seccomp_profile_path="runtime/default") == filter(seccomp=default)
    own = pod.SecurityProfile(pod.ProfileType.LOCALHOST, "/p.json")
    assert filter(b'{"defaultAction": "SCMP_ACT_LOG"}', seccomp=own)["defaultAction"] == "SCMP_ACT_LOG"


def test_every_spec_states_the_oldest_version_and_no_hooks() -> None:
    for inputs in CASES.values():
        spec = build.build(inputs).spec
        assert spec["ociVersion"] == "1.0.2"
        assert "hooks" not in spec
        assert "sysctl" not in spec["linux"]
        assert "rlimits" not in spec["process"]


def test_building_twice_gives_equal_specs_that_share_nothing_but_the_filter() -> None:
    inputs = CASES["seccomp-default"]
    first, second = build.build(inputs).spec, build.build(inputs).spec
    assert first == second
    first["process"]["env"].append("X=1")
    first["process"]["user"]["additionalGids"].append(7)
    assert build.build(inputs).spec == second


def test_what_could_not_be_given_is_said() -> None:
    node = facts.NodeFacts(capabilities=frozenset({"CAP_CHOWN"}), can_lower_oom=False, oom_score_adj=100, swap=False)
    limits = pod.LinuxContainerResources(
        oom_score_adj=-997, memory_limit_in_bytes=1 << 20, memory_swap_limit_in_bytes=2 << 20
    )
    spec = samples.container_spec(
        samples.security(capabilities=container.Capability(add_capabilities=["SYS_RESOURCE", "CHOWN"])),
        limits,
        envs=[container.KeyValue("KEY", b"\xff")],
    )
    built = build.build(samples.inputs(node=node, container=spec))
    assert built.spec["process"]["oomScoreAdj"] == 100
    assert built.spec["linux"]["resources"]["memory"] == {"limit": 1 << 20}
    assert built.spec["process"]["capabilities"]["bounding"] == ["CAP_CHOWN"]
    assert [warning.split()[0] for warning in built.warnings] == [
        "envs['KEY']",
        "capabilities",
        "oom_score_adj",
        "memory_swap_limit_in_bytes",
    ]


def test_output_that_nobody_keeps_and_volumes_that_nobody_can_write_are_told() -> None:
    inputs = samples.inputs()
    asked = replace(inputs.container, log_path="c.log")
    assert build.build(replace(inputs, container=asked)).warnings == []
    (warning,) = build.build(replace(inputs, container=asked, pod=replace(inputs.pod, log_directory=""))).warnings
    assert warning.startswith("log_path 'c.log'")
    inputs = samples.with_security(readonly_rootfs=True)
    config = replace(inputs.image, volumes=["/data/", "/data/below", "/cache"])
    (warning,) = build.build(replace(inputs, image=config, mounts=[mount("/data")])).warnings
    assert warning.startswith("the image's VOLUME '/cache'")


def test_nothing_unusual_gives_no_warning() -> None:
    assert build.build(samples.inputs()).warnings == []


def test_built_tells_user_and_signal() -> None:
    built = build.build(CASES["mounts"])
    assert built.stop_signal == 3
    assert built.user == facts.ResolvedUser(0, 0, [0, 4], "/root")


def test_exec_is_the_container_with_another_command() -> None:
    spec = build.build(CASES["user"]).spec
    process = build.exec_process(spec, ["ls", "-l"], tty=True)
    assert process["args"] == ["ls", "-l"]
    assert process["terminal"] is True
    assert process["env"] == [*spec["process"]["env"], "TERM=xterm"]
    same = ("user", "cwd", "capabilities", "noNewPrivileges", "oomScoreAdj")
    assert {key: process[key] for key in same} == {key: spec["process"][key] for key in same}
    assert spec["process"]["terminal"] is False
    with pytest.raises(errors.Invalid, match="cmd is empty"):
        build.exec_process(spec, [])


def test_encode_keeps_bytes_or_replaces_them() -> None:
    spec = samples.built(container=samples.container_spec(envs=[container.KeyValue("KEY", b'a\xe9\xff"\\z')]))
    assert build.encode(spec, raw=True).count(b'"KEY=a\xe9\xff\\"\\\\z"') == 1
    decoded = json.loads(build.encode(spec))
    assert 'KEY=a\ufffd\ufffd"\\z' in decoded["process"]["env"]


def test_encode_survives_surrogates_that_stand_for_no_byte() -> None:
    document = {"env": ["A=\ud800", "B=\udcff"]}
    assert json.loads(build.encode(document)) == {"env": ["A=\ufffd", "B=\ufffd"]}
    assert build.encode(document, raw=True) == '{"env":["A=\ufffd","B='.encode() + b'\xff"]}'


def test_encode_of_plain_text_is_utf8() -> None:
    assert build.encode({"a": "é😀"}) == '{"a":"é😀"}'.encode()


def test_containers_get_the_limits_that_the_daemon_was_started_with() -> None:
    limited = build.build(samples.inputs(node=facts.NodeFacts(open_files=(1024, 524288))))
    assert limited.spec["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 524288}]
    assert "rlimits" not in build.build(samples.inputs()).spec["process"]
