"""What a pod asks of its network, in the words of CNI's conventions.

Sources: CNI conventions 1.1.0 ("dynamic plugin specific fields"), containerd's internal/cri sandbox_run, kubelet's
pkg/util/bandwidth. A plugin gets only what it declares (conflist.build_input).
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Sequence
from typing import Any

from ropewalk.errors import Invalid
from ropewalk.spec import pod

INGRESS = "kubernetes.io/ingress-bandwidth"
EGRESS = "kubernetes.io/egress-bandwidth"
MIN_RATE, MAX_RATE = 1_000, 10**15  # bits per second, as kubelet limits them
BURST = (1 << 32) - 1  # bits: no limit of its own; the bandwidth plugin takes up to 4 GiB

# apimachinery pkg/api/resource/quantity.go
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([kMGTPE]i|[mkMGTPE]?)|[eE]([+-]?\d{1,3}))", re.ASCII)
_SUFFIXES = {"": 0, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"ki": 1, "Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def build_arguments(pod_id: str, spec: pod.PodSpec) -> str:
    """CNI_ARGS. INVALID for a value that would add an argument of its own."""
    values = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": spec.metadata.namespace,
        "K8S_POD_NAME": spec.metadata.name,
        "K8S_POD_INFRA_CONTAINER_ID": pod_id,
        "K8S_POD_UID": spec.metadata.uid,
    }
    for key, value in values.items():
        if re.search(r"[;=\0]", value):
            raise Invalid(f"{key} {value!r} cannot be told to CNI plugins: it holds one of ; = NUL")
    return ";".join(f"{key}={value}" for key, value in values.items())


def build(spec: pod.PodSpec, cidrs: Sequence[str]) -> dict[str, Any]:
    """Capability arguments. `cidrs`: the pod CIDR's subnets. INVALID for a bandwidth that is none."""
    found: dict[str, Any] = {
        "portMappings": [_port(mapping) for mapping in spec.port_mappings if mapping.host_port > 0],
        "bandwidth": _bandwidth(spec.annotations),
        "dns": _dns(spec.dns_config),
        "ipRanges": [[{"subnet": cidr}] for cidr in cidrs],
        "io.kubernetes.cri.pod-annotations": spec.annotations,
        "cgroupPath": spec.linux.cgroup_parent,
    }
    return {key: value for key, value in found.items() if value}


def _port(mapping: pod.PortMapping) -> dict[str, Any]:
    told: dict[str, Any] = {
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": mapping.protocol.name.lower(),
    }
    return told | ({"hostIP": mapping.host_ip} if mapping.host_ip else {})


def _dns(config: pod.DNSConfig | None) -> dict[str, list[str]]:
    if config is None:
        return {}
    return {"servers": config.servers, "searches": config.searches, "options": config.options}


def _bandwidth(annotations: dict[str, str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, name in ((INGRESS, "ingress"), (EGRESS, "egress")):
        if key in annotations:
            found |= {f"{name}Rate": parse_rate(annotations[key], key), f"{name}Burst": BURST}
    return found


def parse_rate(text: str, name: str) -> int:
    """A Kubernetes quantity ("10M", "1.5Gi", "1e6") as bits per second, rounded up."""
    match = _QUANTITY.fullmatch(text)
    if not match:
        raise Invalid(f"annotation {name}={text!r} is not a quantity", hint="for example 10M")
    number, suffix, exponent = match.groups()
    value = decimal.Decimal(number)
    if suffix in _BINARY:
        value *= 1024 ** _BINARY[suffix]
    else:
        value = value.scaleb(int(exponent) if exponent else _SUFFIXES[suffix or ""])
    rate = int(value.to_integral_value(decimal.ROUND_CEILING))
    if not MIN_RATE <= rate <= MAX_RATE:
        raise Invalid(f"annotation {name}={text!r} is not within 1k and 1P bits per second")
    return rate
