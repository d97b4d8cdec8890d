"""The runtime spec of a container, of a pod's init, and of an exec: values in, one value out.

Worked example::

    inputs = build.Inputs(id=id, pod_id=pod.id, pod=pod.spec, container=spec, image=image.config, passwd=image.passwd,
                          group=image.group, namespaces=pod.namespaces, files=files, cgroup_path=cgroup, node=facts)
    built = build.build(inputs)          # Invalid or Unsupported before any work
    config_json = build.encode(built.spec)
    process_json = build.encode(build.exec_process(built.spec, ["ls"]))

A spec is a plain dict of the runtime-spec's names. Its strings may hold bytes that are not UTF-8 (surrogateescape):
write it with `encode` only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from ropewalk.runtimes.oci import annotations as runtime_annotations
from ropewalk.runtimes.oci import (
    capabilities,
    devices,
    mounts,
    namespaces,
    process,
    resources,
    seccomp,
    security,
    selinux,
    signals,
    usernamespace,
    users,
    validate,
)
from ropewalk.runtimes.oci.facts import HostDevice, NodeFacts, ResolvedMount, ResolvedUser
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.image import ImageConfig
from ropewalk.spec.pod import LinuxContainerResources, PodSpec

VERSION = "1.0.2"  # the oldest that has all we write; crun 1.8 refuses 1.3
INIT_ARGS = ("/catatonit", "-P")  # reaps, and ends at SIGTERM
INIT_USER = 65534
INIT_OOM_SCORE = -998  # what the kubelet gives the sandboxes of other runtimes
INIT_CPU_SHARES = 2

_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_ESCAPE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that stand for no byte


class Inputs(Struct, frozen=True, kw_only=True):
    """Everything that a container's spec depends on."""

    id: str
    pod_id: str = ""
    pod: PodSpec
    container: ContainerSpec
    image: ImageConfig
    passwd: bytes = b""  # of the image, bounded by whoever read it
    group: bytes = b""
    namespaces: dict[str, str] = field(default_factory=dict)  # OCI type -> path to join: network ipc uts pid user
    files: dict[str, str] = field(default_factory=dict)  # path in the container -> host path: /etc/hosts, /dev/shm, …
    files_locked: list[str] = field(default_factory=list)  # ResolvedMount.locked of these
    cgroup_path: str = ""
    selinux_level: str = ""  # the pod's
    mounts: list[ResolvedMount] = field(default_factory=list)
    devices: list[HostDevice] = field(default_factory=list)  # as requested
    node_devices: list[HostDevice] = field(default_factory=list)  # all of the node's, for a privileged container
    seccomp_profile: bytes | None = None  # content of seccomp.profile_file(container.security)
    node: NodeFacts = NodeFacts()
    annotations: list[str] = field(default_factory=list)  # the handler's allow list
    fixed_annotations: dict[str, str] = field(default_factory=dict)  # the handler's own


class Built(Struct, frozen=True):
    """A container's spec, what was resolved for it, and what could not be given as asked (to be logged once)."""

    spec: dict[str, Any]
    user: ResolvedUser
    stop_signal: int
    relabel: list[str] = field(default_factory=list)  # sources of volumes that get linux.mountLabel
    warnings: list[str] = field(default_factory=list)


def build(inputs: Inputs) -> Built:
    """Everything decided about a container. Raises Invalid or Unsupported, naming field and value."""
    validate.validate_container(inputs.pod, inputs.container)
    user = users.resolve(inputs.container.security, inputs.image, inputs.passwd, inputs.group)
    maps = usernamespace.of_pod(inputs.pod)
    usernamespace.check_user(user, maps)
    propagation = mounts.rootfs_propagation(inputs.mounts)
    readonly = inputs.container.security.readonly_rootfs
    spec: dict[str, Any] = {
        "ociVersion": VERSION,
        "process": _process(inputs, user),
        "root": {"path": "rootfs", "readonly": readonly},
        "mounts": mounts.build(
            inputs.mounts,
            inputs.files,
            readonly_rootfs=readonly,
            privileged=inputs.container.security.privileged,
            facts=inputs.node,
            users=maps,
            files_locked=inputs.files_locked,
        ),
        "annotations": runtime_annotations.of_container(
            inputs.pod,
            inputs.container,
            sandbox_id=inputs.pod_id,
            allow=inputs.annotations,
            fixed=inputs.fixed_annotations,
        ),
        "linux": _linux(inputs, propagation),
    }
    return Built(
        spec,
        user,
        signals.stop_signal(inputs.container, inputs.image),
        [one.source for one in inputs.mounts if one.mount.selinux_relabel] if labels(inputs).mount else [],
        _warnings(inputs, spec["process"]),
    )


def init_spec(
    pod: PodSpec,
    *,
    id: str,
    namespaces: Mapping[str, str],
    cgroup_path: str,
    node: NodeFacts,
    args: Sequence[str] = INIT_ARGS,
    rootfs: str = "rootfs",
    allow: Sequence[str] = (),
    fixed: Mapping[str, str] | None = None,
    seccomp_profile: bytes | None = None,
) -> dict[str, Any]:
    """The container of a pod's own: a built-in read-only root, no capability, nobody's user. It holds a shared PID
    namespace, or stands for the pod in a runtime that has its own kernel.

    `namespaces`: pins of the pod that it joins; its PID and mount namespaces are its own. `rootfs`: relative to the
    bundle, or absolute. `allow`, `fixed`: annotations of the handler's configuration. `seccomp_profile`: content of
    seccomp.profile_file(pod.linux.security_context); as with containerd's pause, the pod's own profile is its filter.
    """
    maps = usernamespace.of_pod(pod)
    filter = seccomp.build(pod.linux.security_context, seccomp_profile, capabilities=frozenset(), facts=node)
    score = LinuxContainerResources(oom_score_adj=INIT_OOM_SCORE)
    return {
        "ociVersion": VERSION,
        "process": {
            "terminal": False,
            "user": _init_user(pod, maps),
            "args": list(args),
            "env": [f"PATH={process.DEFAULT_PATH}", "HOME=/"],
            "cwd": "/",
            "capabilities": {kind: [] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")},
            "noNewPrivileges": True,
            "oomScoreAdj": resources.oom_score_adj(score, node),
        },
        "root": {"path": rootfs, "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "noexec", "mode=755", "size=64k"],
            },
        ],
        "annotations": runtime_annotations.of_sandbox(pod, sandbox_id=id, allow=allow, fixed=fixed),
        "linux": {
            "cgroupsPath": cgroup_path,
            "namespaces": [
                {"type": "mount"},
                {"type": "pid"},
                *({"type": type, "path": path} for type, path in sorted(namespaces.items()) if type != "pid"),
            ],
            "resources": {"cpu": {"shares": INIT_CPU_SHARES}, "devices": devices.rules([], privileged=False)},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
            **({} if filter is None else {"seccomp": filter}),
            **({} if maps is None else usernamespace.mappings(maps)),
        },
    }


def _init_user(pod: PodSpec, maps: usernamespace.Maps | None) -> dict[str, Any]:
    """Whom the pod asks for; else nobody, or the last user that its namespace has. Invalid if it has not."""
    context = pod.linux.security_context
    nobody = INIT_USER if maps is None else min(INIT_USER, maps.uids.length - 1, maps.gids.length - 1)
    uid = nobody if context.run_as_user is None else context.run_as_user
    gid = (nobody if uid == nobody else 0) if context.run_as_group is None else context.run_as_group
    groups = sorted({*context.supplemental_groups})
    usernamespace.check_user(ResolvedUser(uid=uid, gid=gid, supplemental_groups=groups), maps)
    return {"uid": uid, "gid": gid, **({"additionalGids": groups} if groups else {})}


def exec_process(spec: Mapping[str, Any], cmd: Sequence[str], *, tty: bool = False) -> dict[str, Any]:
    """The process object of an exec: the container's own, with another command. Same user, groups, capabilities,
    environment and no_new_privs, so that an exec is never more than the container (peers T14)."""
    own = dict(spec["process"])
    return {
        **own,
        "terminal": tty,
        "args": process.checked_args(cmd, "cmd is empty"),
        "env": process.with_term(own["env"]) if tty else list(own["env"]),
    }


def encode(document: Mapping[str, Any], *, raw: bool = False) -> bytes:
    """JSON for config.json. Bytes of a value that are no UTF-8 are written as U+FFFD, as containerd does, because the
    parsers of runc and of crun with yajl (1.8, 1.21) refuse or replace them; `raw` writes them as they are, which
    crun with json-c (since 2026) takes."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    if raw:
        return _NOT_ESCAPE.sub("\ufffd", text).encode("utf-8", "surrogateescape")
    return _SURROGATE.sub("\ufffd", text).encode()


def labels(inputs: Inputs) -> selinux.Labels:
    """The SELinux labels of the container and of what is mounted for it."""
    context = inputs.container.security
    return selinux.labels(
        inputs.node.selinux,
        context.selinux_options,
        pod=inputs.pod.linux.security_context.selinux_options,
        level=inputs.selinux_level,
        privileged=context.privileged,
    )


def _process(inputs: Inputs, user: ResolvedUser) -> dict[str, Any]:
    container, context = inputs.container, inputs.container.security
    result: dict[str, Any] = {
        "terminal": container.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.supplemental_groups},
        "args": process.args(container, inputs.image),
        "env": process.env(
            container, inputs.image, hostname=inputs.pod.hostname or inputs.node.hostname, home=user.home
        ),
        "cwd": process.cwd(container, inputs.image),
        "capabilities": capabilities.sets(
            context.capabilities, privileged=context.privileged, bounding=inputs.node.capabilities, uid=user.uid
        ),
        "noNewPrivileges": context.no_new_privs,
        "oomScoreAdj": resources.oom_score_adj(container.linux.resources, inputs.node),
    }
    if inputs.node.open_files is not None:
        soft, hard = inputs.node.open_files
        result["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}]
    for name, value in (
        ("apparmorProfile", security.apparmor(context, inputs.node)),
        ("selinuxLabel", labels(inputs).process),
    ):
        if value:
            result[name] = value
    return result


def _linux(inputs: Inputs, propagation: str) -> dict[str, Any]:
    container, context = inputs.container, inputs.container.security
    wanted = [*(inputs.node_devices if context.privileged else []), *inputs.devices]
    limits = resources.build(container.linux.resources, inputs.node)
    filter = seccomp.build(
        context,
        inputs.seccomp_profile,
        capabilities=capabilities.allowed(
            context.capabilities, privileged=context.privileged, bounding=inputs.node.capabilities
        ),
        facts=inputs.node,
    )
    linux: dict[str, Any] = {
        "cgroupsPath": inputs.cgroup_path,
        "namespaces": namespaces.build(inputs.pod, container, inputs.namespaces, inputs.node),
        "resources": {**limits, "devices": devices.rules(inputs.devices, privileged=context.privileged)},
        "devices": devices.nodes(wanted),
        "maskedPaths": security.masked_paths(context),
        "readonlyPaths": security.readonly_paths(context),
    }
    if mount_label := labels(inputs).mount:
        linux["mountLabel"] = mount_label
    if propagation:
        linux["rootfsPropagation"] = propagation
    maps = usernamespace.of_pod(inputs.pod)
    if maps is not None:
        linux |= usernamespace.mappings(maps)
    if filter is not None:
        linux["seccomp"] = filter
    return {name: value for name, value in linux.items() if value or name == "namespaces"}


def _warnings(inputs: Inputs, process_object: Mapping[str, Any]) -> list[str]:
    context, limits = inputs.container.security, inputs.container.linux.resources
    found = [
        f"envs[{name!r}] is not UTF-8; most OCI runtimes cannot take it, its odd bytes become U+FFFD"
        for name in process.not_utf8(process_object["env"])
    ]
    lost = capabilities.missing(context.capabilities, inputs.node.capabilities)
    if lost:
        found.append(f"capabilities {', '.join(lost)} were asked for, and this daemon does not have them")
    if process_object["oomScoreAdj"] != limits.oom_score_adj:
        found.append(
            f"oom_score_adj {limits.oom_score_adj} is below the daemon's own {inputs.node.oom_score_adj}, which it "
            "cannot undercut without CAP_SYS_RESOURCE"
        )
    if limits.memory_swap_limit_in_bytes and not inputs.node.swap:
        found.append(f"memory_swap_limit_in_bytes {limits.memory_swap_limit_in_bytes} needs swap accounting")
    if inputs.container.log_path and not inputs.pod.log_directory:
        found.append(
            f"log_path {inputs.container.log_path!r} is nowhere without the pod sandbox's log_directory: what the "
            "container writes is discarded"
        )
    found += [
        f"the image's VOLUME {path!r} is read-only, as the root file system: mount something there"
        for path in (_unmounted_volumes(inputs) if context.readonly_rootfs else ())
    ]
    return found


def _unmounted_volumes(inputs: Inputs) -> list[str]:
    """Where the image wants to write, and the request mounts nothing. A volume is part of the root file system here, as
    with CRI-O; containerd makes one that can be written."""
    mounted = [f"{mounts.destination(one.mount)}/" for one in inputs.mounts]
    return [path for path in inputs.image.volumes if not f"{path.rstrip('/')}/".startswith(tuple(mounted))]
