"""The peer: the containerd on PATH with its shim, runc and the CNI plugins, as a private instance.

Its configuration is its defaults but for places (all below one directory), registry mirrors, and
`restrict_oom_score_adj`, without which it starts no pod where CAP_SYS_RESOURCE is missing. cgroupfs driver.
"""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench import cni, images
from bench.accounting import program_version
from bench.side import Side
from ropewalk.linux import mount
from tools import node, registry

NEEDED = ("containerd", "containerd-shim-runc-v2", "runc", "iptables")


def missing() -> str:
    """Why it cannot be measured here; "" if it can."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not on PATH"
    return cni.missing()


def major(version: str) -> int:
    """Of `containerd NAME 2.4.2+unknown REVISION` or `containerd NAME v1.6.20 REVISION`."""
    found = re.search(r"\bv?(\d+)\.\d+\.\d+", version.split(" ", 1)[-1])
    return int(found[1]) if found else 0


def configuration(version: int, base: Path, binaries: str) -> str:
    """The config.toml of containerd 2 (version 3) or 1 (version 2)."""
    head = f"version = {3 if version >= 2 else 2}\nroot = '{base}/root'\nstate = '{base}/state'\n"
    grpc = f"[grpc]\naddress = '{base}/containerd.sock'\n[ttrpc]\naddress = '{base}/containerd.sock.ttrpc'\n"
    common = f"[plugins.'io.containerd.internal.v1.opt']\npath = '{base}/opt'\n"
    if version < 2:
        cri = "plugins.'io.containerd.grpc.v1.cri'"
        return f"""{head}{grpc}{common}
[{cri}]
sandbox_image = '{images.PAUSE}'
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[{cri}.cni]
bin_dir = '{binaries}'
conf_dir = '{base}/net.d'
[{cri}.registry]
config_path = '{base}/certs.d'
"""
    return f"""{head}{grpc}{common}
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{images.PAUSE}'
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = '{base}/certs.d'
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['{binaries}']
conf_dir = '{base}/net.d'
[plugins.'io.containerd.nri.v1.nri']
socket_path = '{base}/nri.sock'
plugin_path = '{base}/nri/plugins'
plugin_config_path = '{base}/nri/conf.d'
[plugins.'io.containerd.shim.v1.manager']
socket_dir = '{base}/s'
"""


class Containerd(Side):
    name = "containerd"

    def __init__(self, served: registry.Registry) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="ropewalk-bench-", dir="/var/tmp"))
        self.tag = secrets.token_hex(2)
        self.address = str(self.base / "containerd.sock")
        (self.base / "state").mkdir()
        mount.tmpfs(str(self.base / "state"))
        cni.write(self.base, self.tag)
        for name in node.REGISTRIES:
            (self.base / "certs.d" / name).mkdir(parents=True)
            hosts = f'server = "https://{name}"\n[host."{served.url}"]\ncapabilities = ["pull", "resolve"]\n'
            (self.base / "certs.d" / name / "hosts.toml").write_text(hosts)
        (self.base / "config.toml").write_text(configuration(major(self.version()), self.base, cni.directory()))
        super().__init__()

    def command(self) -> list[str]:
        return ["containerd", "--config", str(self.base / "config.toml")]

    def version(self) -> str:
        found = re.search(r"\bv?(\d+\.\d+\.\d+\S*)", program_version("containerd", "--version").split(" ", 1)[-1])
        return found[1] if found else "unknown"

    def use(self, network: str) -> None:
        """It has no network of its own."""

    def dismantle(self) -> None:
        """Mounts (root file systems, shared memory, network namespaces) before the directories that hold them."""
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for point in sorted((point for point in points if point.startswith(f"{self.base}/")), reverse=True):
            subprocess.run(["umount", "-l", point], check=False, capture_output=True)
        cni.remove(self.tag)
        shutil.rmtree(self.base, ignore_errors=True)
