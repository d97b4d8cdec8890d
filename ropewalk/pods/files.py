"""The files a pod's containers share: /etc/hostname, /etc/hosts, /etc/resolv.conf and /dev/shm (contract 6.5)."""

from __future__ import annotations

import contextlib
import os
import socket

from ropewalk.linux import mount, paths, selinux
from ropewalk.spec.pod import DNSConfig, NamespaceMode, PodSpec

SHM_SIZE = 64 << 20
RESOLV_CONF = "/etc/resolv.conf"
RESOLVED_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"  # systemd-resolved(8): the real servers
STUB_SERVERS = frozenset({"127.0.0.53", "127.0.0.54"})
HOSTS = "/etc/hosts"


def directory(state: str, pod_id: str) -> str:
    return f"{state}/pods/{pod_id}"


def shared(state: str, pod_id: str, spec: PodSpec) -> dict[str, str]:
    """Where a container sees each file -> the file on the node."""
    base = directory(state, pod_id)
    host_ipc = spec.namespaces.ipc is NamespaceMode.NODE
    return {
        "/etc/hostname": f"{base}/hostname",
        "/etc/hosts": f"{base}/hosts",
        "/etc/resolv.conf": f"{base}/resolv.conf",
        "/dev/shm": "/dev/shm" if host_ipc else f"{base}/shm",
    }


def hostname(spec: PodSpec) -> str:
    """What the UTS namespace is set to; empty in the request only with the host's network."""
    return spec.hostname or socket.gethostname()


def resolv_conf(config: DNSConfig) -> bytes:
    """resolv.conf(5) of a given configuration; a given but empty one is an empty file."""
    lines = []
    if config.searches:
        lines.append("search " + " ".join(config.searches))
    lines += [f"nameserver {server}" for server in config.servers]
    if config.options:
        lines.append("options " + " ".join(config.options))
    return "".join(line + "\n" for line in lines).encode()


def is_stub(text: bytes) -> bool:
    """Whether the only servers are systemd-resolved's stub, which nobody reaches from another network namespace."""
    words = [line.split() for line in text.decode(errors="replace").splitlines()]
    servers = {line[1] for line in words if len(line) > 1 and line[0] == "nameserver"}
    return bool(servers) and servers <= STUB_SERVERS


def node_resolv_conf() -> bytes:
    """The node's own, or systemd-resolved's real one where that is its stub."""
    text = _read(RESOLV_CONF)
    return (_read(RESOLVED_RESOLV_CONF) or text) if is_stub(text) else text


def write(state: str, pod_id: str, spec: PodSpec, owner: tuple[int, int] = (0, 0)) -> None:
    """Make the files and mount /dev/shm. `owner`: the user and group that are root in the pod."""
    base = directory(state, pod_id)
    os.makedirs(base, mode=0o711, exist_ok=True)
    dns = spec.dns_config
    contents = {
        "hostname": f"{hostname(spec)}\n".encode(),
        "hosts": _read(HOSTS),
        "resolv.conf": node_resolv_conf() if dns is None else resolv_conf(dns),
    }
    for name, content in contents.items():
        paths.write_atomic(f"{base}/{name}", content, 0o644)
        os.chown(f"{base}/{name}", *owner)
    if spec.namespaces.ipc is not NamespaceMode.NODE:
        os.makedirs(f"{base}/shm", mode=0o755, exist_ok=True)
        if not mount.is_mount(f"{base}/shm"):
            options = [f"uid={owner[0]}", f"gid={owner[1]}"]
            mount.tmpfs(f"{base}/shm", size=SHM_SIZE, mode=0o1777, options=options)


def label(state: str, pod_id: str, spec: PodSpec, label: str) -> None:
    """Let the pod's containers, and nobody else's, read and write them: the SELinux label of their files."""
    own = shared(state, pod_id, spec).values()
    for path in (path for path in own if path.startswith(directory(state, pod_id))):
        selinux.set_label(path, label)


def remove(state: str, pod_id: str) -> None:
    """Undo of write; the directory itself also holds the pins, so it goes with them."""
    base = directory(state, pod_id)
    mount.umount_all(f"{base}/shm")
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(f"{base}/shm")
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(base):
            if not entry.is_dir(follow_symlinks=False):  # a kill leaves half-written ones, too
                os.unlink(entry.path)


def _read(path: str) -> bytes:
    """Empty if there is none."""
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except FileNotFoundError:
        return b""
