"""Which monitor a handler's setting names."""

from __future__ import annotations

import os

from ropewalk.linux import cgroup
from ropewalk.runtimes.monitors import conmon, monitor, own


def make(setting: str, *, exits: str, sockets: str, cgroups: cgroup.Cgroups) -> monitor.Monitor:
    """`setting`: "ropewalk-monitor" (the one that came with this package), "conmon", or the path of either; a file is
    conmon if its name begins so."""
    if os.path.basename(setting).startswith("conmon"):
        return conmon.Conmon(setting, exits=exits, sockets=sockets, cgroups=cgroups)
    return own.OwnMonitor(own.SHIPPED if setting == own.NAME else setting, exits=exits, cgroups=cgroups)
