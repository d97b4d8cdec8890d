"""Which signal stops a container: the CRI's enum and the image's STOPSIGNAL, as the kernel's numbers."""

from __future__ import annotations

import re
import signal

from ropewalk import errors
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.image import ImageConfig

DEFAULT = int(signal.SIGTERM)
RTMIN, RTMAX = 34, 64  # what user space calls SIGRTMIN and SIGRTMAX: glibc keeps 32 and 33 (signal(7))

# runtime.v1.Signal 1..34, in order of the enum's numbers; 35 is SIGRTMIN, 65 is SIGRTMAX
_ENUM = """
    ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP
    TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ
"""
_NAMES = _ENUM.split()
_ENUM_RTMIN, _ENUM_RTMAX = 35, 65
_REALTIME = re.compile(r"(RTMIN\+|RTMAX-)([0-9]{1,2})\Z", re.ASCII)


def stop_signal(container: ContainerSpec, image: ImageConfig) -> int:
    """The request's, else the image's, else SIGTERM."""
    return from_enum(container.stop_signal) or parse(image.stop_signal) or DEFAULT


def from_enum(number: int) -> int:
    """runtime.v1.Signal -> the kernel's number; 0 (RUNTIME_DEFAULT) -> 0."""
    if number == 0:
        return 0
    if 1 <= number <= len(_NAMES):
        return _number(_NAMES[number - 1])
    if _ENUM_RTMIN <= number <= _ENUM_RTMAX:
        # The enum names SIGRTMIN..+15, then SIGRTMAX-14..SIGRTMAX: 31 in a row, like the numbers.
        return RTMIN + number - _ENUM_RTMIN
    raise errors.Invalid(f"stop_signal is {number}", hint=f"runtime.v1.Signal ends at {_ENUM_RTMAX}")


def parse(text: str) -> int:
    """ "SIGTERM", "term", "15", "RTMIN+3" -> number; 0 for "" and for what is no signal (images have odd ones)."""
    name = text.strip().upper()
    if name.isascii() and name.isdigit() and len(name) <= 3:
        number = int(name)
        return number if 1 <= number <= RTMAX else 0
    name = name.removeprefix("SIG")
    if match := _REALTIME.match(name):
        offset = int(match[2])
        number = RTMIN + offset if match[1] == "RTMIN+" else RTMAX - offset
        return number if RTMIN <= number <= RTMAX else 0
    if name in ("RTMIN", "RTMAX"):
        return RTMIN if name == "RTMIN" else RTMAX
    return _number(name) if name in _NAMES else 0


def _number(name: str) -> int:
    # The numbers differ by architecture; Python was built with this one's <signal.h>.
    known = {"CLD": "CHLD", "IOT": "ABRT", "POLL": "IO"}.get(name, name)
    return int(getattr(signal, f"SIG{known}"))
