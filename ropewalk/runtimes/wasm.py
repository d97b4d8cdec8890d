"""Whether a crun runs WebAssembly: its --version has the feature, and a module really runs.

crun hands a container's first argument to an engine that it was linked with where the annotation run.oci.handler asks
for it (crun(1)). A build that says it can may still lack the engine's library, so a module is run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.linux import paths
from ropewalk.runtimes import probes, trial
from ropewalk.runtimes.drivers import init, oci
from ropewalk.runtimes.handler import ContainerPlan, Level, Probe
from ropewalk.storage import snapshotter

HANDLER = "run.oci.handler"
KINDS = ("wasm", "wasm-smart")
FEATURE = "+WASM"
ADVICE = "use a crun that is built with WebAssembly, as Debian 13's is (with libwasmedge0)"
SECONDS = 10.0

# (module (func) (export "_start" (func 0))) in the binary format: types, functions, exports, code.
MODULE = b"\0asm\1\0\0\0" + b"\1\4\1\x60\0\0" + b"\3\2\1\0" + b"\7\x0a\1\6_start\0\0" + b"\x0a\4\1\2\0\x0b"


async def check(driver: oci.Driver, found: Probe) -> Probe:
    """`found`, of the runtime itself, with what became of a module."""
    text = await probes.read_text(driver.command.source)
    features = [word for word in text.split() if word.startswith(FEATURE)]
    if not features:
        return Probe(Level.PRESENT, found.version, f"{found.version} is built without WebAssembly ({FEATURE})", ADVICE)
    try:
        code = await _run(driver)
    except (RopewalkError, TimeoutError) as error:
        return Probe(Level.PRESENT, found.version, f"{features[0]}, but a module did not run: {error}", ADVICE)
    if code:
        return Probe(Level.PRESENT, found.version, f"{features[0]}, but a module ended with {code}", ADVICE)
    return Probe(Level.WORKS, found.version, f"{found.evidence}; {features[0]}: ran a module")


async def _run(driver: oci.Driver) -> int:
    """The exit code of a module that does nothing."""
    id = f"{driver.probe_prefix}{os.urandom(8).hex()}"
    cgroup = driver.probe_cgroup(id)
    spec = build_spec(cgroup, driver.config.annotations)
    root = snapshotter.Mount("bind", source=_root(driver.node.state), options=["ro"])
    driver.probing.add(id)
    try:
        task = await driver.create(ContainerPlan(id=id, pod_id="", spec=spec, rootfs=[root], cgroup=cgroup))
        await driver.start(id, task)
        async with asyncio.timeout(SECONDS):
            return (await driver.wait(id, task, cgroup)).code
    finally:
        with contextlib.suppress(RopewalkError):
            await driver.delete(id, cgroup)
        driver.probing.discard(id)


def build_spec(cgroup: str, annotations: dict[str, str]) -> dict[str, Any]:
    spec = trial.build_spec(cgroup)
    return {**spec, "process": {**spec["process"], "args": ["/probe.wasm"]}, "annotations": annotations}


def _root(state: str) -> str:
    root = os.path.join(state, "wasm-rootfs")
    for name in init.DIRECTORIES:
        os.makedirs(os.path.join(root, name), mode=0o755, exist_ok=True)
    paths.write_atomic(os.path.join(root, "probe.wasm"), MODULE, 0o555)
    return root
