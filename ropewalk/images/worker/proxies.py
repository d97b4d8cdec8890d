"""Which HTTP proxy a URL is asked through: HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the daemon's environment.

The rules are those of Go's httpproxy package, so that what an administrator set for containerd or CRI-O means the
same here: loopback is never proxied, and NO_PROXY lists names (with their subdomains), addresses and CIDR ranges.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from ropewalk.errors import Invalid
from ropewalk.images.worker import hosts

_PORTS = {"http": 80, "https": 443}


def choose(url: str, environment: Mapping[str, str]) -> str:
    """The proxy's URL, "" to ask directly. Invalid for a proxy that does not speak HTTP."""
    target = urlsplit(url)
    name = f"{target.scheme.upper()}_PROXY"
    proxy = environment.get(name) or environment.get(name.lower()) or ""
    if not proxy or hosts.is_loopback(target.netloc):
        return ""
    excepted = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    port = target.port or _PORTS.get(target.scheme, 0)
    if any(_matches(rule.strip().lower(), target.hostname or "", port) for rule in excepted.split(",")):
        return ""
    whole = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(whole).scheme not in _PORTS:
        raise Invalid(f"{name} is {_without_secret(whole)!r}", hint="pulls go through HTTP proxies only")
    return whole


def _matches(rule: str, host: str, port: int) -> bool:
    """`rule`: one entry of NO_PROXY: "*", an address, a range, a name, each but the first two perhaps with a port."""
    if not rule:
        return False
    if rule == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(rule, strict=False)
    except ValueError:  # one of them is a name, or the rule has a port
        pass
    split = urlsplit(f"//{rule}")
    try:
        wanted = split.port
    except ValueError:
        return False
    if wanted is not None and wanted != port:
        return False
    name = (split.hostname or "").removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _without_secret(proxy: str) -> str:
    scheme, _, rest = proxy.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
