"""The other monitor under the same kills."""

from __future__ import annotations

from tests.node.kill import killable
from tests.node.kill.test_random import test_two_hundred_kills_leave_nothing  # noqa: F401 (pytest finds it here, too)

NODE_CLASS = killable.Node
NODE_CONFIG = "ready = 0\n"  # [network]
NODE_ENVIRONMENT = {"ROPEWALK_RUNTIMES_CRUN_MONITOR": "conmon"}
