"""Who is who: the keys by which a repeated request finds what it asked for, and what adoption means."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from ropewalk.errors import Kind, RopewalkError
from ropewalk.pods.records import Container, Pod, PodPhase
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.pod import PodSpec

R = TypeVar("R", Pod, Container)


def pod_key(spec: PodSpec) -> str:
    """The CRI's name of a pod sandbox (contract 1.2, "names and repeats")."""
    m = spec.metadata
    return f"pod sandbox {m.namespace}/{m.name} (uid {m.uid}, attempt {m.attempt})"


def container_key(pod_id: str, spec: ContainerSpec) -> str:
    return f"container {spec.metadata.name} (attempt {spec.metadata.attempt}) of pod sandbox {pod_id}"


def adopt(existing: R, asked: Any, recorded: Any, *, usable: bool, noun: str) -> R:
    """What a repeat of the request that made `existing` gets: the object, or ALREADY_EXISTS saying why not."""
    changed = differences(recorded, asked)
    if not changed and usable:
        return existing
    why = f"differs in {', '.join(changed[:5])}" if changed else f"is {existing.phase.value}"
    raise RopewalkError(
        f"{noun} {existing.id!r} has this name and attempt, but {why}",
        hint="remove it, or ask with the next attempt number",
        kind=Kind.EXISTS,
    )


def adopt_pod(existing: Pod, asked: PodSpec, handler: str) -> Pod:
    """The same for a pod; `handler` is what the request would get now, which the configuration may have changed."""
    if existing.handler != handler:
        raise RopewalkError(
            f"pod sandbox {existing.id!r} has this name and attempt, but its runtime handler is {existing.handler!r}, "
            f"and the request now gets {handler!r}",
            hint="remove it, or ask with the next attempt number",
            kind=Kind.EXISTS,
        )
    return adopt(existing, asked, existing.spec, usable=existing.phase is PodPhase.READY, noun="pod sandbox")


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Dotted names of the fields in which two specs differ."""
    if one == other:
        return []
    if isinstance(one, msgspec.Struct) and type(one) is type(other):
        found: list[str] = []
        for name in one.__struct_fields__:
            found += differences(getattr(one, name), getattr(other, name), f"{path}.{name}" if path else name)
        return found
    return [path]
