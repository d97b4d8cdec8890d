"""SIGKILLs at random times, of the daemon and of what serves pods, on each handler (tests/node/kill/randomly.py).

`KILLS=200 ./dev test tests/node/kill/test_random.py` is the long run. gVisor's: test_walk_runsc.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.node.kill import killable, randomly
from tools import shims

NODE_CLASS = killable.Node
YOUKI = shutil.which("youki")
SHIMS = {"shim": shims.find(), "newer": shims.newer()}
SECTIONS = {name: f'[runtimes.{name}]\ntype = "shim"\npath = "{path}"\n' for name, path in SHIMS.items() if path}
NODE_CONFIG = "ready = 0\n" + "".join(SECTIONS.values())  # [network]: no namespaces in reserve
if YOUKI:
    NODE_CONFIG += f'[runtimes.youki]\npath = "{YOUKI}"\n'

OCI = {"crun": 200, "runc": 20, "youki": 20}  # kills, where nobody says how many
KILLS = 20  # of a shim's


async def needs(node: killable.Node, handler: str) -> None:
    """Its probe may be under way."""
    async with node.client() as client, asyncio.timeout(30):
        while handler not in {found.name for found in (await client.status()).runtime_handlers}:
            await asyncio.sleep(0.1)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("handler", OCI)
async def test_kills_leave_nothing(node: killable.Node, handler: str) -> None:
    if handler == "youki" and not YOUKI:
        pytest.skip("no youki on PATH")
    await needs(node, handler)
    await randomly.leave_nothing(node, handler, randomly.of_oci(node, handler), randomly.kills(OCI[handler]))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("handler", SHIMS)
async def test_kills_leave_nothing_of_shims(node: killable.Node, handler: str) -> None:
    if SHIMS[handler] is None:
        pytest.skip("./dev setup unpacks containerd-shim-runc-v2; a newer one may come first in PATH")
    await needs(node, handler)
    await randomly.leave_nothing(node, handler, randomly.of_shim(node, handler), randomly.kills(KILLS))
    assert sockets(node, handler) == []


def sockets(node: killable.Node, handler: str) -> list[str]:
    """Where a shim of any id in the daemon's log would listen, as containerd's library names it, if there is one."""
    names = (
        os.path.normpath(f"{node.state}/shims/{handler}.sock/k8s.io/{id}")
        for id in set(re.findall(r"\b[0-9a-f]{64}\b", node.log_file.read_text()))
    )
    paths = (Path("/run/containerd/s", hashlib.sha256(name.encode()).hexdigest()) for name in names)
    return [str(path) for path in paths if path.exists()]
