"""The figures: one function each. It gets a side in the population that it names, and returns one sample.

Ropewalk and the peer are sampled in turn (runner.py); the tables are in report.py, what was promised in bars.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct

from bench import accounting, images, statistics
from bench.side import Side
from ropewalk.wire.pb import cri_pb2 as pb

WARM = 20  # calls before a latency is taken
CYCLES = 4  # life cycles in one sample of processor time
SETTLE = 0.3  # seconds for what goes on behind an answer
IDLE = 35.0  # seconds after which worker processes have left, on either side
THREADS, LIVES = 10, 40  # workers10


class Measure(Struct, frozen=True):
    """`pods` and `containers` of each: the population it wants; `network`: Ropewalk's (Side.use); `text`: what it is,
    for people."""

    name: str
    sample: Callable[[Side], float]
    unit: str
    better: str
    pairs: int
    pods: int
    containers: int
    network: str
    text: str


MEASURES: dict[str, Measure] = {}
Sample = Callable[[Side], float]


def bench(
    *, unit: str, better: str = "lower", pairs: int, pods: int = 0, containers: int = 1, network: str = "bridge"
) -> Callable[[Sample], Sample]:
    """Register a function under its name; its docstring's first line goes into the report."""

    def register(function: Sample) -> Sample:
        text = (function.__doc__ or "").strip().splitlines()[0]
        MEASURES[function.__name__] = Measure(
            function.__name__, function, unit, better, pairs, pods, containers if pods else 0, network, text
        )
        return function

    return register


def _pod_start(side: Side, *, host_network: bool, handler: str = "") -> float:
    pod = side.kubelet.pod(host_network=host_network, handler=handler)
    with side.clock() as took:
        pod.run()
        pod.start()
    pod.settle()
    pod.remove()
    pod.forget()
    return took.ms


def _life_cycle(side: Side, *, host_network: bool, handler: str = "") -> float:
    pod = side.kubelet.pod(host_network=host_network, handler=handler)
    with side.clock() as took:
        pod.run()
        pod.start()
        pod.settle()
        pod.remove()
    pod.forget()
    return took.ms


@bench(unit="ms", pairs=40)
def pod_start_host(side: Side) -> float:
    """RunPodSandbox to a started container on the node's network; the image is unpacked"""
    return _pod_start(side, host_network=True)


@bench(unit="ms", pairs=40)
def pod_start_bridge(side: Side) -> float:
    """the same on a network of its own: the built-in bridge, the CNI plugins"""
    return _pod_start(side, host_network=False)


@bench(unit="ms", pairs=40, network="cni")
def pod_start_cni(side: Side) -> float:
    """the same by the CNI plugins on both sides: bridge, host-local, portmap"""
    return _pod_start(side, host_network=False)


@bench(unit="ms", pairs=40, network="cni")
def pod_start_shim(side: Side) -> float:
    """the same, and by the same containerd-shim-runc-v2 with runc on both sides"""
    return _pod_start(side, host_network=False, handler=side.shim)


def _cpu_daemon(side: Side, *, whole: bool, handler: str = "") -> float:
    """Of the daemon's own process, its threads included: in whole life cycles, or in their starts."""
    assert side.process is not None
    pid, used = side.process.pid, 0.0
    for _ in range(CYCLES):
        pod = side.kubelet.pod(host_network=False, handler=handler)
        time.sleep(SETTLE)  # what the last one left behind its answer is not this one's
        before = accounting.own_cpu_ms(pid)
        pod.run()
        pod.start()
        if not whole:
            used += accounting.own_cpu_ms(pid) - before
        pod.settle()
        pod.remove()
        pod.forget()
        if whole:
            time.sleep(SETTLE)
            used += accounting.own_cpu_ms(pid) - before
    return used / CYCLES


@bench(unit="CPU-ms", pairs=10)
def cpu_daemon_start(side: Side) -> float:
    """processor time of the daemon itself from RunPodSandbox to a started container, without what it starts"""
    return _cpu_daemon(side, whole=False)


@bench(unit="CPU-ms", pairs=10, network="cni")
def cpu_daemon_start_shim(side: Side) -> float:
    """the same by the same containerd-shim-runc-v2 and the CNI plugins on both sides"""
    return _cpu_daemon(side, whole=False, handler=side.shim)


@bench(unit="CPU-ms", pairs=10)
def cpu_daemon(side: Side) -> float:
    """processor time of the daemon itself in a life cycle, until nothing of the pod is left"""
    return _cpu_daemon(side, whole=True)


@bench(unit="CPU-ms", pairs=10, network="cni")
def cpu_daemon_shim(side: Side) -> float:
    """the same by the same containerd-shim-runc-v2 and the CNI plugins on both sides"""
    return _cpu_daemon(side, whole=True, handler=side.shim)


@bench(unit="ms", pairs=25)
def life_cycle_host(side: Side) -> float:
    """RunPodSandbox to RemovePodSandbox with one container, node's network"""
    return _life_cycle(side, host_network=True)


@bench(unit="ms", pairs=25)
def life_cycle_bridge(side: Side) -> float:
    """the same on a network of its own"""
    return _life_cycle(side, host_network=False)


@bench(unit="ms", pairs=25, network="cni")
def life_cycle_cni(side: Side) -> float:
    """the same by the CNI plugins on both sides"""
    return _life_cycle(side, host_network=False)


def _cpu_life_cycle(side: Side) -> float:
    before = side.group.cpu_ms()
    for _ in range(CYCLES):
        _life_cycle(side, host_network=False)
    time.sleep(SETTLE)
    return (side.group.cpu_ms() - before) / CYCLES


@bench(unit="CPU-ms", pairs=10)
def cpu_life_cycle(side: Side) -> float:
    """processor time of one life cycle on a network of its own, until nothing of the pod is left"""
    return _cpu_life_cycle(side)


@bench(unit="CPU-ms", pairs=10, network="cni")
def cpu_life_cycle_cni(side: Side) -> float:
    """the same by the CNI plugins on both sides"""
    return _cpu_life_cycle(side)


@bench(unit="ms", pairs=25)
def stop_container(side: Side) -> float:
    """StopContainer; the payload ends at once when it gets SIGTERM"""
    pod = side.kubelet.pod()
    pod.run()
    pod.start()
    pod.settle()
    with side.clock() as took:
        pod.stop()
    pod.remove()
    pod.forget()
    return took.ms


@bench(unit="pods/s", better="higher", pairs=3)
def workers10(side: Side) -> float:
    """life cycles on a network of their own, ten at a time"""

    def live(_: int) -> None:
        _life_cycle(side, host_network=False)

    with side.clock() as took, ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(live, range(LIVES)))
    return LIVES / took.ms * 1000


@bench(unit="s", pairs=7)
def start_ready(side: Side) -> float:
    """exec of the daemon to a Status that is ready; no pods"""
    side.stop()
    return side.start()


@bench(unit="MB", pairs=3)
def memory_idle(side: Side) -> float:
    """PSS of all processes two seconds after the start; no pods"""
    side.stop()
    side.start()
    time.sleep(2)
    return accounting.pss_mb(side.group.processes())


@bench(unit="ms", pairs=60, pods=1)
def exec_sync(side: Side) -> float:
    """ExecSync of /bin/true"""
    with side.clock() as took:
        side.pods[0].exec("/bin/true")
    return took.ms


@bench(unit="x", pairs=5, pods=1)
def pull_latency(side: Side) -> float:
    """p99 of ContainerStatus while 500 MB are pulled, over p99 before"""
    idle = statistics.quantile(_probe(side, until=time.monotonic() + 2), 0.99)
    pull = threading.Thread(target=side.kubelet.pull, args=(images.BIG,))
    pull.start()
    busy = statistics.quantile(_probe(side, until=time.monotonic() + 300, during=pull), 0.99)
    pull.join()
    side.kubelet.remove_image(images.BIG)
    return busy / idle


def _probe(side: Side, *, until: float, during: threading.Thread | None = None) -> list[float]:
    """Latencies in ms of a call every 5 ms, as long as the thread runs."""
    request = pb.ContainerStatusRequest(container_id=side.pods[0].containers[0])
    took = []
    while time.monotonic() < until and (during is None or during.is_alive()):
        before = time.perf_counter()
        side.kubelet.call("ContainerStatus", request)
        took.append((time.perf_counter() - before) * 1000)
        time.sleep(0.005)
    return took


@bench(unit="MB/pod", pairs=2, pods=100)
def memory_100(side: Side) -> float:
    """PSS of all processes but the payloads, over 100 pods of one container, idle for 35 s"""
    time.sleep(max(1.0, side.changed + IDLE - time.monotonic()))
    return accounting.pss_mb(side.group.processes(without=side.payloads())) / len(side.pods)


def _median_call(side: Side, name: str, request: object, *, times: int, pause: float) -> float:
    """Milliseconds; replies are deserialised, as any client does."""
    took = []
    for number in range(WARM // 4 + times):
        with side.clock() as once:
            side.kubelet.call(name, request)
        if number >= WARM // 4:
            took.append(once.ms)
        time.sleep(pause)
    return statistics.median(took).value


@bench(unit="ms", pairs=5, pods=100, containers=2)
def list_containers(side: Side) -> float:
    """ListContainers, 100 pods of two containers"""
    return _median_call(side, "ListContainers", pb.ListContainersRequest(), times=100, pause=0.002)


@bench(unit="ms", pairs=5, pods=100, containers=2)
def list_container_stats(side: Side) -> float:
    """ListContainerStats, 100 pods of two containers"""
    return _median_call(side, "ListContainerStats", pb.ListContainerStatsRequest(), times=10, pause=0.05)


@bench(unit="s", pairs=3, pods=100, containers=2)
def adoption_100(side: Side) -> float:
    """exec of the daemon after kill -9 until each of 100 pods and 200 containers has told its state"""
    side.kill()
    before = time.monotonic()
    side.start()
    for pod in side.pods:
        status = side.kubelet.call("PodSandboxStatus", pb.PodSandboxStatusRequest(pod_sandbox_id=pod.id)).status
        assert status.state == pb.PodSandboxState.SANDBOX_READY, f"pod {pod.id} is {status.state}"
        for id in pod.containers:
            state = side.kubelet.call("ContainerStatus", pb.ContainerStatusRequest(container_id=id)).status.state
            assert state == pb.ContainerState.CONTAINER_RUNNING, f"container {id} is {state}"
    return time.monotonic() - before
