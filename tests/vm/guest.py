"""The lab VM as the tests see it: Ropewalk installed, a registry, pods, and the kernel's view of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path

from ropewalk.client import admin, cri
from ropewalk.linux import cgroup_systemd
from ropewalk.spec import pod
from tools import debian, workload
from tools.lab import channel, image, machine

REGISTRY = "127.0.0.1:5000"
CONFIG = '[network]\nmode = "bridge"\n'  # all else is as a user finds it
SETUP = "/etc/ropewalk/conf.d/lab.toml"
REGISTRY_UNIT = """\
[Unit]
Description=Registry of the test images
RequiresMountsFor={storage}
[Service]
ExecStart=/usr/bin/docker-registry serve /etc/lab-registry.json
Environment=OTEL_TRACES_EXPORTER=none
[Install]
WantedBy=multi-user.target
"""
CGROUPS = "/sys/fs/cgroup"
READY = 90.0  # seconds; the guest is ten times slower than this machine


class Lab:
    def __init__(self, vm: machine.Machine) -> None:
        self.vm = vm
        self.run = vm.run
        self.read = vm.read
        self.address = vm.forward("/run/ropewalk/ropewalk.sock")
        self.driver = "systemd"  # what "auto" is here
        self.network = "bridge"

    # As the README says.

    def install(self, work: Path) -> None:
        self.vm.put_tree()  # for what looks at the guest; Ropewalk is not run from it
        self.serve_images()
        pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
        debian.run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", work, image.ROOT)
        (wheel,) = work.glob("*.whl")
        self.vm.put(wheel, f"/root/{wheel.name}")
        self.vm.put(image.ROOT / "packaging/ropewalk.service", "/etc/systemd/system/ropewalk.service")
        self.vm.write("/etc/ropewalk/config.toml", CONFIG)
        offline = ("--no-index", "--find-links", image.WHEELS, "--disable-pip-version-check")
        self.run(f"{image.USER}/bin/pip", "-q", "install", *offline, f"/root/{wheel.name}", timeout=600)
        self.run("ln", "-sf", f"{image.USER}/bin/ropewalk", "/usr/local/bin/ropewalk")
        self.run("systemctl", "daemon-reload")
        enabled = self.run("systemctl", "enable", "--now", "lab-registry", "ropewalk", timeout=READY, check=False)
        assert enabled.code == 0, self.journal(40)

    def serve_images(self) -> None:
        """A registry in the guest, as mirror of the public ones."""
        storage = f"{machine.CACHE}/{image.images_name()}/registry"
        configuration = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": storage}},
            "http": {"addr": REGISTRY, "secret": "of no consequence on loopback"},
        }
        self.vm.write("/etc/lab-registry.json", json.dumps(configuration))
        self.vm.write("/etc/systemd/system/lab-registry.service", REGISTRY_UNIT.format(storage=storage))
        self.vm.write("/etc/fstab", f"LABEL=images {machine.CACHE}/{image.images_name()} ext4 defaults,nofail 0 0\n")
        for name in ("docker.io", "registry.k8s.io"):
            hosts = f'[host."http://{REGISTRY}"]\ncapabilities = ["pull", "resolve"]\n'
            self.vm.write(f"/etc/containerd/certs.d/{name}/hosts.toml", hosts)

    async def use(self, *, driver: str = "", network: str = "") -> None:
        """Another cgroup driver or network from now on; the daemon is restarted if it has another one."""
        wanted = (driver or self.driver, network or self.network)
        if wanted == (self.driver, self.network):
            return
        self.driver, self.network = wanted
        text = f'cgroup_driver = "{self.driver}"\n[network]\nmode = "{self.network}"\n'
        await asyncio.to_thread(self.vm.write, SETUP, text)
        await self.restart()

    async def restart(self) -> None:
        await asyncio.to_thread(self.run, "systemctl", "restart", "ropewalk", timeout=READY)
        await self.ready()
        async with admin.Client(self.address) as client:
            await client.runtimes()  # it waits for the probes

    @property
    def own(self) -> str:
        """The cgroup that holds the pods which name no parent."""
        return "/ropewalk.slice" if self.driver == "systemd" else "/ropewalk"

    def units(self) -> list[str]:
        """Slices and scopes of pods that systemd has."""
        listed = self.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=slice,scope").text
        names = [line.split()[0] for line in listed.splitlines()]
        return [name for name in names if name.startswith(("ropewalk-", "kubepods"))]

    # What the kernel and systemd say.

    def exists(self, path: str) -> bool:
        return self.run("test", "-e", path, check=False).code == 0

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", "-p", name, unit).text.strip()

    def pid(self) -> int:
        return int(self.property("ropewalk", "MainPID"))

    def journal(self, lines: int) -> str:
        with contextlib.suppress(Exception):
            return self.run("journalctl", "-u", "ropewalk", "-n", str(lines), "-o", "cat", check=False).text
        return "the guest does not answer"

    def setting(self, group: str, file: str) -> str:
        return self.read(f"{CGROUPS}{group}/{file}").strip()

    def processes(self, group: str) -> list[int]:
        """Of the cgroup and those below."""
        script = 'cd "$1" 2>/dev/null && find . -name cgroup.procs -exec cat {} + || true'
        return [int(line) for line in self.run("sh", "-c", script, "sh", f"{CGROUPS}{group}").text.split()]

    def trace(self) -> set[str]:
        """tools.trace's snapshot, taken in the guest."""
        program = "import json; from tools import trace; print(json.dumps(sorted(trace.snapshot())))"
        said = self.run(f"{image.DEV}/bin/python", "-c", program, cwd=image.TREE).text
        own = ("tools import trace", "ropewalk.linux.offload_worker")  # workers come and go with what there is to do
        return {line for line in json.loads(said) if not any(part in line for part in own)}

    # The daemon.

    async def ready(self) -> None:
        """Until it answers and says Ready: after a restart, or a boot."""
        deadline = time.monotonic() + READY
        while True:
            try:
                async with cri.Client(self.address) as client:
                    await workload.ready(client, deadline)
                    return
            except Exception:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.3)


class Pod(workload.Pod):
    """Its logs are in the guest."""

    def __init__(self, lab: Lab, client: cri.Client, id: str, spec: pod.PodSpec) -> None:
        super().__init__(client, id, spec)
        self.lab = lab

    @property
    def group(self) -> str:
        parent = self.spec.linux.cgroup_parent
        if parent.endswith(".slice"):
            return cgroup_systemd.parse_slice(parent)
        own = f"ropewalk-pod{self.id}.slice" if self.lab.driver == "systemd" else f"pod{self.id}"
        return parent or f"{self.lab.own}/{own}"

    def cgroup(self, name: str = "main") -> str:
        id = self.containers[name]
        return f"{self.group}/{f'ropewalk-{id}.scope' if self.group.endswith('.slice') else id}"

    def log(self, name: str = "main") -> str:
        with contextlib.suppress(channel.Failed):
            return self.lab.read(f"{self.spec.log_directory}/{name}.log")
        return ""
