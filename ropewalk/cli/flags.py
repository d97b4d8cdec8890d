"""The values of docker's flags, parsed: ports, volumes, variables, users. Each raises Invalid, naming the value."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ropewalk.errors import Invalid, Unsupported
from ropewalk.spec import container, pod

PERIOD = 100_000  # µs, the kernel's own default of a CPU quota's period
MOST_CPUS = 1 << 20  # more than any node has; their quota fits the CRI's field
MOST_ID = (1 << 31) - 1  # of users and groups, as the CRI's implementations have it


def parse_port(text: str) -> pod.PortMapping:
    """[IP:]HOST:CONTAINER[/PROTOCOL]; an IPv6 address stands in brackets."""
    ports, _, name = text.partition("/")
    ip, found, rest = "", ports, ports
    if ports.startswith("["):
        ip, _, rest = ports[1:].partition("]:")
    elif ports.count(":") == 2:
        ip, _, rest = ports.partition(":")
    host, found, inner = rest.partition(":")
    protocols = {p.name: p for p in pod.Protocol}
    protocol = protocols.get(name.upper() or "TCP")
    if not found or protocol is None:
        raise Invalid(f"{text!r} is no port mapping", hint="write [IP:]HOST:CONTAINER[/tcp|udp|sctp], as 8080:80")
    _check_ip(ip, text)
    return pod.PortMapping(protocol, _port(inner, text), _port(host, text), ip)


def _check_ip(ip: str, text: str) -> None:
    import ipaddress  # only a mapping with an address pays for it

    try:
        if ip:
            ipaddress.ip_address(ip)
    except ValueError:
        raise Invalid(f"{ip!r} in port mapping {text!r} is no IP address") from None


def _port(text: str, mapping: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise Invalid(f"{text!r} in port mapping {mapping!r} is no port", hint="1 to 65535; ranges are not built")
    return int(text)


def parse_volume(text: str) -> container.Mount:
    """SOURCE:TARGET[:OPTION,...]: ro, rw, rslave, rshared, rprivate. SOURCE is made absolute from here."""
    source, _, rest = text.partition(":")
    target, _, options = rest.partition(":")
    if not source or not target.startswith("/"):
        raise Invalid(f"{text!r} is no volume", hint="write SOURCE:TARGET[:ro], TARGET an absolute path")
    if not source.startswith(("/", ".")):
        raise Unsupported(f"{source!r} in volume {text!r} is no path; named volumes do not exist", hint=f"./{source}?")
    modes = container.MountPropagation
    propagation = {"rslave": modes.HOST_TO_CONTAINER, "rshared": modes.BIDIRECTIONAL, "rprivate": modes.PRIVATE}
    given = [option for option in options.split(",") if option]
    unknown = [option for option in given if option not in ("ro", "rw") and option not in propagation]
    if unknown:
        raise Invalid(f"unknown option {unknown[0]!r} in volume {text!r}", hint="ro, rw, rslave, rshared or rprivate")
    chosen = [propagation[option] for option in given if option in propagation]
    return container.Mount(
        container_path=target,
        host_path=os.path.abspath(source),
        readonly="ro" in given,
        propagation=chosen[0] if chosen else modes.PRIVATE,
    )


def parse_variable(text: str) -> container.KeyValue | None:
    """KEY=VALUE, or KEY with this process's value; None if it has none (as docker)."""
    key, given, value = text.partition("=")
    if not key:
        raise Invalid(f"{text!r} is no variable", hint="write KEY=VALUE, or KEY for its value here")
    if not given:
        here = os.environb.get(os.fsencode(key))
        return None if here is None else container.KeyValue(key, here)
    return container.KeyValue(key, os.fsencode(value))  # what the shell gave, though it were no UTF-8


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """KEY=VALUE each; KEY alone has the value ""."""
    labels = {key: value for key, _, value in (text.partition("=") for text in texts)}
    if "" in labels:
        raise Invalid(f"'={labels['']}' is no label", hint="write KEY=VALUE")
    return labels


def parse_user(text: str) -> tuple[int | None, str, int | None]:
    """UID, user name, GID of NAME|UID[:GID]. The CRI takes no group by name."""
    user, colon, group = text.partition(":")
    if not user or (colon and not group):
        raise Invalid(f"{text!r} is no user", hint="write NAME or UID, and :GID if wanted")
    if colon and not group.isdecimal():
        raise Unsupported(f"group {group!r} in user {text!r}: the CRI takes a number", hint="write the group's GID")
    if any(number.isdecimal() and int(number) > MOST_ID for number in (user, group)):
        raise Invalid(f"{text!r} is no user", hint=f"ids are 0 to {MOST_ID}")
    gid = int(group) if colon else None
    return (int(user), "", gid) if user.isdecimal() else (None, user, gid)


def parse_capabilities(texts: Iterable[str]) -> list[str]:
    """Names without CAP_, which is how the CRI wants them."""
    return [name.upper().removeprefix("CAP_") for text in texts for name in text.split(",") if name]


def cpu_quota(cpus: float) -> int:
    """µs of CPU per PERIOD; 0 (no limit) for 0."""
    if cpus and not 0.01 <= cpus <= MOST_CPUS:  # what is no number is not, either
        raise Invalid(f"--cpus is {cpus:g}", hint="0.01 is the least the kernel can do; 0 is no limit")
    return round(cpus * PERIOD)
