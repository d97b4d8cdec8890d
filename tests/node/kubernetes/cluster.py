"""A Kubernetes of one node: etcd, kube-apiserver and kubelet, which come from PATH, around a private Ropewalk.

kubelet writes to places of the whole machine: kernel settings, /var/log/containers, /var/lib/kubelet. So it and the
daemon, whose mounts it must see and show, live in a mount namespace where those are files of this cluster.
There is no scheduler, and there are no controllers: a pod names its node.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from tools import node as nodes
from tools import registry, workload

PROGRAMS = ("etcd", "kube-apiserver", "kubelet")
NAME = "node"
PODS = "/api/v1/namespaces/default/pods"
READY = 120.0 * workload.SLOWER  # seconds until the node is Ready: 15 to 30 pass
PATIENCE = 60.0 * workload.SLOWER  # seconds for what one pod does
# What kubelet wants of the kernel and would set (pkg/kubelet/cm, setupKernelTunables).
TUNED = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
APART = "mount --make-rshared / && mount -t tmpfs tmpfs /var/log && mount -t tmpfs tmpfs /var/lib && echo apart && \
exec sleep infinity"
# Of kubelet alone: where files of /proc are covered, no user namespace can mount a /proc (mount_namespaces(7)).
TUNE = 'mount --make-rprivate /proc; n=$1; shift; while [ "$n" -gt 0 ]; do mount --bind "$1" "/proc/sys/$2" || exit 1; \
shift 2; n=$((n-1)); done; exec "$@"'


def missing() -> list[str]:
    """The programs that PATH lacks."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Node(nodes.Node):
    """One whose daemon lives in the mount namespace of `holder`."""

    holder: subprocess.Popen[str] | None = None

    async def start(self) -> float:
        if self.holder is None:
            self.holder = await asyncio.to_thread(self._hold)
        return await super().start()

    def _hold(self) -> subprocess.Popen[str]:
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", APART]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None
        if holder.stdout.readline() != "apart\n":
            raise RuntimeError(f"no mount namespace for a kubelet: exit {holder.wait()}")
        return holder

    def inside(self, *command: str) -> list[str]:
        """A command as it runs in that mount namespace; the process is the command's own."""
        assert self.holder is not None, "the node was not started"
        return ["nsenter", "--mount", "--target", str(self.holder.pid), f"--wd={os.getcwd()}", "--", *command]

    def command(self) -> list[str]:
        return self.inside(*super().command())

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            if self.holder is not None:
                self.holder.kill()
                self.holder.wait()
                assert self.holder.stdout is not None
                self.holder.stdout.close()


class Cluster:
    """`start` and `close`, which takes its pods away, may run in event loops of their own."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.directory = node.base / "kubernetes"
        self.logs = self.directory / "pods"
        self.api = f"https://127.0.0.1:{registry.free_port()}"
        self.kubelet = f"https://127.0.0.1:{registry.free_port()}"
        self._token = secrets.token_hex()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._etcd = f"http://127.0.0.1:{registry.free_port()}"
        self._trust = ssl._create_unverified_context()  # loopback, certificates of its own making

    # The programs.

    async def start(self) -> None:
        for directory in (self.directory, self.logs, self.directory / "kubelet"):
            directory.mkdir()
        try:
            self._run("etcd", *self._etcd_options())
            self._run("kube-apiserver", *self._apiserver_options())
            await self.until("ready", lambda: self.get("/readyz"), READY)
            self._run(*self._tuned("kubelet", *self._kubelet_options()), log="kubelet")
            await self.until("node Ready", self._node_ready, READY)
        except BaseException:
            self._end()
            raise

    async def close(self) -> None:
        try:
            for name in self.names():
                await self.delete(name)
        finally:
            self._end()

    def _end(self) -> None:
        """The last one first; kubelet leaves its pods as they are."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _tuned(self, *command: str) -> list[str]:
        """A command that finds the kernel's settings as it wants them, and writes to files of its own."""
        tuned: list[str] = []
        for name, value in TUNED.items():
            file = self.directory / name.replace("/", "-")
            file.write_text(f"{value}\n")
            tuned += [str(file), name]
        apart = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", TUNE, "kubelet"]
        return [*apart, str(len(TUNED)), *tuned, *command]

    def _run(self, *command: str, log: str = "") -> None:
        with (self.directory / f"{log or command[0]}.log").open("ab") as out:
            whole = self.node.inside(*command)
            self._processes.append(
                subprocess.Popen(whole, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
            )

    def _etcd_options(self) -> list[str]:
        peers = f"http://127.0.0.1:{registry.free_port()}"
        return [
            f"--data-dir={self.directory}/etcd", f"--listen-client-urls={self._etcd}", "--unsafe-no-fsync",
            f"--advertise-client-urls={self._etcd}", f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=default={peers}",
        ]  # fmt: skip

    def _apiserver_options(self) -> list[str]:
        key = self.directory / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens = self.directory / "tokens"
        tokens.write_text(f'{self._token},admin,admin,"system:masters"\n')
        return [
            f"--etcd-servers={self._etcd}", "--bind-address=127.0.0.1", f"--secure-port={self.api.rpartition(':')[2]}",
            f"--cert-dir={self.directory}/api", f"--token-auth-file={tokens}", "--authorization-mode=AlwaysAllow",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/24",
            "--disable-admission-plugins=ServiceAccount",
        ]  # fmt: skip

    def _kubelet_options(self) -> list[str]:
        base = self.directory / "kubelet"
        (base / "resolv.conf").write_text("nameserver 10.96.0.10\n")
        config = {
            "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "containerRuntimeEndpoint": f"unix://{self.node.address}", "podLogsDir": str(self.logs),
            "address": "127.0.0.1", "port": int(self.kubelet.rpartition(":")[2]), "healthzPort": 0, "readOnlyPort": 0,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"}, "resolvConf": str(base / "resolv.conf"),
            "volumePluginDir": str(base / "volume-plugins"), "makeIPTablesUtilChains": False, "failSwapOn": False,
            "failCgroupV1": False, "cgroupsPerQOS": False, "enforceNodeAllocatable": [],
            "localStorageCapacityIsolation": False, "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "0%"}, "syncFrequency": "1s", "nodeStatusUpdateFrequency": "2s",
        }  # fmt: skip
        (base / "config.json").write_text(json.dumps(config))
        kubeconfig = {
            "kind": "Config", "apiVersion": "v1", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.api, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "u", "user": {"token": self._token}}],
        }  # fmt: skip
        (base / "kubeconfig").write_text(json.dumps(kubeconfig))
        return [
            f"--config={base}/config.json", f"--kubeconfig={base}/kubeconfig", f"--root-dir={base}/root",
            f"--cert-dir={base}/pki", f"--hostname-override={NAME}", "-v=2",
        ]  # fmt: skip

    def log(self, name: str, lines: int = 60) -> str:
        path = self.directory / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    # Its API.

    def call(self, method: str, url: str, body: object = None) -> bytes:
        """The answer's body; HTTPError with what it said otherwise. Blocks."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._trust) as answer:
                said: bytes = answer.read()
                return said
        except urllib.error.HTTPError as error:
            error.add_note(error.read().decode(errors="replace"))
            raise

    def get(self, path: str) -> bytes:
        return self.call("GET", self.api + path)

    def read(self, path: str) -> Any:
        return json.loads(self.get(path))

    def create(self, path: str, **fields: Any) -> Any:
        return json.loads(self.call("POST", self.api + path, fields))

    def pod(self, name: str, runtime_class: str, *command: str, image: str, **spec: Any) -> None:
        """Ask for a pod of one container, "main", on the node."""
        container = {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "command": list(command)}
        container |= spec.pop("container", {})
        given = {
            "nodeName": NAME, "runtimeClassName": runtime_class, "containers": [container], "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False,
        }  # fmt: skip
        self.create(PODS, apiVersion="v1", kind="Pod", metadata={"name": name}, spec=given | spec)

    def status(self, name: str) -> Any:
        return self.read(f"{PODS}/{name}")["status"]

    def is_ready(self, name: str) -> bool:
        return condition(self.status(name), "Ready")

    def output(self, name: str) -> str:
        """Its container's log, from kubelet."""
        return self.call("GET", f"{self.kubelet}/containerLogs/default/{name}/main").decode()

    def events(self, name: str, reason: str) -> list[str]:
        """What was told of a pod."""
        selector = f"involvedObject.name={name},reason={reason}"
        found = self.read(f"/api/v1/namespaces/default/events?fieldSelector={selector}")
        return [item["message"] for item in found["items"]]

    async def delete(self, name: str) -> None:
        """Ask for its end, and wait for it: kubelet takes the object away when nothing runs."""
        with contextlib.suppress(urllib.error.HTTPError):
            self.call("DELETE", f"{self.api}{PODS}/{name}")
        await self.until(f"{name} gone", lambda: name not in self.names())

    def names(self) -> list[str]:
        return [item["metadata"]["name"] for item in self.read(PODS)["items"]]

    def _node_ready(self) -> bool:
        return condition(self.read(f"/api/v1/nodes/{NAME}")["status"], "Ready")

    async def until(self, what: str, holds: Callable[[], object], seconds: float = PATIENCE) -> Any:
        """What `holds` returned when it was true at last. An API that does not answer yet is no answer."""
        deadline = time.monotonic() + seconds
        while True:
            ended = [process.args for process in self._processes if process.poll() is not None]
            with contextlib.suppress(OSError):  # URLError, HTTPError and refused connections are OSErrors
                if found := await asyncio.to_thread(holds):
                    return found
            if ended or time.monotonic() > deadline:
                logs = "\n".join(f"== {name}\n{self.log(name)}" for name in PROGRAMS)
                raise TimeoutError(f"not {what} (ended: {ended}):\n{logs}")
            await asyncio.sleep(0.1)


def condition(status: Any, kind: str) -> bool:
    return any(item["type"] == kind and item["status"] == "True" for item in status.get("conditions", []))
