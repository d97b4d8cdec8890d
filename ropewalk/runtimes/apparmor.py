"""The default AppArmor profile: its text, and that it is in the kernel when a container needs it.

What it adds to capabilities, seccomp and masked paths: no mounts even for who may mount, no writes to the kernel's
settings below /proc and /sys wherever they are mounted, no tracing of and no signals to processes outside. All
containers share it; namespaces keep them apart. It depends on no file of the node but apparmor_parser.

It is loaded once by each daemon, which replaces that of an earlier version, and again whenever the kernel's list does
not have it: `aa-teardown`, or another's reload, may have taken it away. A daemon that is killed meanwhile leaves a
profile whole or not at all, since the kernel takes it in one write.
"""

from __future__ import annotations

import logging
import os

from msgspec import Struct

from ropewalk.errors import RopewalkError
from ropewalk.linux import apparmor, spawn
from ropewalk.singleflight import Flights

NAME = "ropewalk-default"
PARSER = "apparmor_parser"
ABI = "/etc/apparmor.d/abi/3.0"
LOAD_SECONDS = 20.0

log = logging.getLogger(__name__)

# A runtime or a monitor may be confined by a profile of its own name, as Ubuntu has them. Rules that deny what another
# allows win. Every name below /proc that is no number, "self", "thread-self" (links to numbers) or "sys" is denied.
_TEXT = """\
{abi}profile {name} flags=(attach_disconnected,mediate_deleted) {{
  file,
  network,
  unix,
  capability,
  umount,

  signal (send, receive) peer={name},
  ptrace (trace, tracedby, read, readby) peer={name},
{signals}
  deny mount,
  deny remount,
  deny pivot_root,

  deny /proc/* w,
  deny /proc/[^1-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/{{kcore,kmem,mem,sysrq-trigger}} rwklx,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
}}
"""
_SIGNALLERS = (apparmor.UNCONFINED, "crun", "runc", "conmon")


class Loaded(Struct, frozen=True):
    """What a container can be confined by, now. `problem`: why there is no default."""

    default: str = ""
    profiles: frozenset[str] = frozenset()
    problem: str = ""


class AppArmor:
    """One for the daemon. `enabled`: the kernel confines at all."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.problem = ""
        self._loaded = False  # by this daemon
        self._flights: Flights[None] = Flights(abandon=False)

    async def ready(self, named: str, *, default: bool) -> Loaded:
        """`named`: a profile that was asked for, "" for none; it is looked up. `default`: whether the default one is
        needed; it is loaded if it is not."""
        if not self.enabled:
            return Loaded()
        try:
            if default and not (self._loaded and apparmor.is_loaded(NAME)):
                await self._flights.join(NAME, self._load)
            profiles = frozenset({named} if named and apparmor.is_loaded(named) else ())
        except OSError as error:
            self._tell(f"cannot read the loaded profiles: {error}")
            return Loaded(problem=self.problem)
        return Loaded(NAME if default and not self.problem else "", profiles, self.problem)

    async def _load(self) -> None:
        try:
            text = build(daemon=apparmor.own_profile(), abi=os.path.exists(ABI)).encode()
            done = await spawn.run([PARSER, "--skip-cache", "--replace"], input=text, timeout=LOAD_SECONDS)
        except FileNotFoundError:
            self._tell(f"no {PARSER} on this node: apt-get install apparmor")
            return
        except (OSError, RopewalkError) as error:
            self._tell(f"{PARSER}: {error}")
            return
        if done.code or not apparmor.is_loaded(NAME):
            self._tell(f"{PARSER} did not load {NAME}: {done.stderr.decode(errors='replace').strip()[:500]}")
            return
        self._tell("")
        self._loaded = True

    def _tell(self, problem: str) -> None:
        """Once, not for every container."""
        if problem and problem != self.problem:
            log.warning("containers that ask for no AppArmor profile run unconfined", extra={"problem": problem})
        self.problem = problem


def build(*, daemon: str, abi: bool) -> str:
    """The profile's text. `daemon`: profile of this process, which signals containers. `abi`: this node has the file
    that pins what the rules mean; without it a parser takes its own oldest."""
    signallers = dict.fromkeys((*_SIGNALLERS, daemon))
    signals = "".join(f'  signal (receive) peer="{name}",\n' for name in signallers)
    return _TEXT.format(name=NAME, abi="abi <abi/3.0>,\n" if abi else "", signals=signals)
