"""A user's installation on the primary target: systemd, cgroup v2 alone, AppArmor."""

from __future__ import annotations

import json

from ropewalk.client import cri
from ropewalk.version import VERSION
from tests.vm import guest


def test_the_guest_is_what_the_tests_think(lab: guest.Lab) -> None:
    assert lab.run("stat", "-fc", "%T", guest.CGROUPS).text == "cgroup2fs\n"
    assert "cgroup " not in lab.run("findmnt", "-no", "FSTYPE,TARGET").text  # no v1 hierarchy
    assert lab.read("/proc/1/comm") == "systemd\n"
    assert lab.read("/sys/module/apparmor/parameters/enabled") == "Y\n"


def test_the_service_told_systemd_that_it_is_ready(lab: guest.Lab) -> None:
    assert lab.property("ropewalk", "ActiveState") == "active"
    assert lab.property("ropewalk", "Type") == "notify"
    assert lab.property("ropewalk", "NRestarts") == "0"
    assert lab.property("ropewalk", "StatusErrno") == "0"
    assert lab.read(f"/proc/{lab.pid()}/cgroup") == "0::/system.slice/ropewalk.service\n"
    assert int(lab.read(f"/proc/{lab.pid()}/oom_score_adj")) == -999


async def test_status_is_ready(lab: guest.Lab, client: cri.Client) -> None:
    await lab.ready()
    status = await client.status()
    assert [(c.type, c.status, c.reason) for c in status.status.conditions if not c.status] == []
    assert (await client.version()).runtime_version == VERSION
    assert await client.cgroup_driver() == "systemd"  # nobody set it


def test_the_command_speaks_to_it(lab: guest.Lab) -> None:
    said = json.loads(lab.run("ropewalk", "info", "--json", timeout=120).stdout)
    assert VERSION in json.dumps(said)
