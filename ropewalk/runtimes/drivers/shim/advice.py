"""What to do about what a shim says when it cannot make a pod: texts that were seen, each with its cause.

Kata's are those of 4.1.0's Go runtime (docs/runtimes/kata.md).
"""

from __future__ import annotations

ADVICE = (
    ("Unix syslog delivery error", "Kata writes to /dev/log: run journald or another syslog daemon"),
    ("Cannot find usable config file", "set config_path in the handler's section to Kata's configuration file"),
    ("doesn't support vsock", "modprobe vhost_vsock; in a virtual machine, its kernel must have that"),
    ("KVM kernel module", "modprobe kvm_amd or kvm_intel; in a virtual machine, nesting must be on"),
    (".toml: file ", "install that file, or correct its path in the configuration"),
)


def advise(complaint: str) -> str:
    """ "" if nothing is known about it."""
    return next((advice for text, advice in ADVICE if text in complaint), "")
