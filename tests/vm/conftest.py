"""Fixtures of the lab VM's tests: one VM for the run, with Ropewalk installed as a user would, as a systemd service.

The tests run here and look into the guest through its channel; the CRI socket is forwarded, so `client` is a client as
everywhere. ROPEWALK_LAB=<directory of a running VM> uses that one instead of booting one, to try a test quickly.

lab          the VM: `lab.run(...)`, `lab.read(path)`, `lab.reboot()`
driver       the cgroup driver that the daemon has; `@both_drivers` runs a test with each
client       a client of the daemon in it
run_pod      runs a pod sandbox that is removed after the test
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ropewalk.client import cri
from ropewalk.spec import pod
from ropewalk.spec.image import ImageSpec
from tests.vm import guest
from tools import images, workload
from tools.lab import machine

DRIVERS = ("systemd", "cgroupfs")
both_drivers = pytest.mark.parametrize("driver", DRIVERS, indirect=True)
TIMEOUT = 600  # seconds for a test: the first one boots and installs, and everything is ten times slower in there
PodRunner = Callable[..., Awaitable["guest.Pod"]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs one cgroup driver comes together: another one is a restart and a new trial of each handler. Reboots
    come last."""
    own = [item for item in items if "tests/vm/" in item.path.as_posix()]
    for item in own:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT))
    if len(own) == len(items):
        items.sort(key=lambda item: ("test_zz" in item.path.name, needs_other_driver(item), item.path))


def needs_other_driver(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    return bool(item.callspec.params.get("driver", DRIVERS[0]) != DRIVERS[0])


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[guest.Lab]:
    with contextlib.ExitStack() as stack:
        running = os.environ.get("ROPEWALK_LAB")
        vm = machine.Machine(images=True, attach=Path(running) if running else None)
        lab = guest.Lab(stack.enter_context(vm))
        lab.install(tmp_path_factory.mktemp("wheel"))
        yield lab


@pytest.fixture
async def driver(request: pytest.FixtureRequest, lab: guest.Lab) -> str:
    """The cgroup driver of this test: systemd, unless it has it as a parameter."""
    name: str = getattr(request, "param", DRIVERS[0])
    await lab.use(driver=name)
    return name


@pytest.fixture
async def client(lab: guest.Lab, driver: str) -> AsyncIterator[cri.Client]:
    assert lab.vm.alive(), f"the VM has ended: {lab.vm.said()}"
    async with cri.Client(lab.address) as client:
        yield client


@pytest.fixture
async def busybox(client: cri.Client) -> str:
    """The image, pulled."""
    if await client.image(images.BUSYBOX) is None:
        await client.pull(ImageSpec(image=images.BUSYBOX))
    return images.BUSYBOX


@pytest.fixture
async def run_pod(lab: guest.Lab, client: cri.Client, busybox: str) -> AsyncIterator[PodRunner]:
    """`await run_pod(name="", **fields of PodSpec)`."""
    made: list[guest.Pod] = []

    async def run(name: str = "", **fields: Any) -> guest.Pod:
        spec: pod.PodSpec = workload.pod_spec(name, logs=Path("/var/log/pods"), **fields)
        lab.vm.run("mkdir", "-p", spec.log_directory)
        made.append(guest.Pod(lab, client, await client.run_pod(spec), spec))
        return made[-1]

    yield run
    for each in made:
        await each.remove()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failure shows the end of the daemon's journal."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, guest.Lab):
        report.sections.append(("journal of ropewalk.service", lab.journal(80)))
    return report
