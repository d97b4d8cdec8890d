"""What critest's [PodSandbox], [Networking], [Multiple Containers] and [Runtime info] assert."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import pytest

from ropewalk.client import cri
from ropewalk.client.values import PodSandboxState
from ropewalk.spec.image import ImageSpec
from ropewalk.spec.pod import DNSConfig, PortMapping
from tests.node.cri.shells import Shells
from tools import images, registry

LABELS = {"app": "conformance", "key.with/slash": ""}
NOTES = {"annotation": "a value\nof two lines"}


async def test_ready_not_ready_and_gone(shells: Shells) -> None:
    pod, client = await shells.pod(labels=LABELS, annotations=NOTES), shells.client
    (listed,) = await client.pods(id=pod.id)
    status = await client.pod_status(pod.id)
    assert listed.metadata == status.metadata == pod.spec.metadata
    assert (listed.state, status.state) == (PodSandboxState.READY, PodSandboxState.READY)
    assert (listed.labels, status.labels, listed.annotations, status.annotations) == (LABELS, LABELS, NOTES, NOTES)
    for _ in range(2):
        await client.stop_pod(pod.id)
        assert (await client.pod_status(pod.id)).state is PodSandboxState.NOTREADY
    for _ in range(2):
        await client.remove_pod(pod.id)
        assert await client.pods(id=pod.id) == []


async def test_name_resolution_and_hostname_as_asked(shells: Shells) -> None:
    dns = DNSConfig(servers=["10.10.10.10"], searches=["google.com"], options=["ndots:8"])
    pod = await shells.pod(hostname="test-hostname", dns_config=dns)
    said = await shells.say("hostname; cat /etc/resolv.conf", of=pod)
    expected = {"test-hostname", "search google.com", "nameserver 10.10.10.10", "options ndots:8"}
    assert set(said.stdout.splitlines()) == expected


@pytest.mark.parametrize(
    ("name", "value"), [("kernel.shm_rmid_forced", "1"), ("fs.mqueue.msg_max", "100")], ids=["safe", "unsafe"]
)
async def test_sysctls_are_set_in_the_pod_alone(shells: Shells, name: str, value: str) -> None:
    file = f"/proc/sys/{name.replace('.', '/')}"
    before = Path(file).read_text()
    assert (await shells.say(f"cat {file}", of=await shells.pod(sysctls={name: value}))).stdout == f"{value}\n"
    assert Path(file).read_text() == before


def fetched(url: str) -> str:
    """Once something listens there."""
    end = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            assert time.monotonic() < end, f"nobody serves {url}"
            time.sleep(0.05)


async def test_several_containers_one_serves_on_the_pods_address_and_a_host_port(shells: Shells) -> None:
    port = registry.free_port()
    pod = await shells.pod(port_mappings=[PortMapping(container_port=80, host_port=port)])
    client = shells.client
    await client.pull(ImageSpec(image=images.NGINX))
    web = await shells.start(pod, reference=images.NGINX, name="web")
    other = await shells.start(pod, "sh", "-c", "echo hello World; exec sleep 600", name="other")
    assert "Welcome to nginx" in fetched(f"http://{await pod.ip()}/")
    assert "Welcome to nginx" in fetched(f"http://127.0.0.1:{port}/")
    assert await pod.says("hello World", "other") == "hello World\n"
    assert Path((await client.container_status(web)).log_path).name == "web.log"
    for id in (web, other):
        assert (await client.exec_sync(id, ["echo", "-n", "hello"])).stdout == b"hello"


async def test_the_runtime_tells_what_it_is_and_that_it_is_ready(client: cri.Client) -> None:
    version = await client.version()
    assert (version.version, version.runtime_api_version) == ("0.1.0", "v1")
    assert all((version.runtime_name, version.runtime_version))
    status = await client.status()
    assert all(status.condition(name).status for name in ("RuntimeReady", "NetworkReady"))
