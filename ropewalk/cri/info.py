"""What a verbose status adds: `info`, a map of JSON texts (containerd's keys, which tools read)."""

from __future__ import annotations

from typing import Any

import msgspec

from ropewalk.errors import NotFound
from ropewalk.images.store import Image
from ropewalk.pods.records import Container, Pod
from ropewalk.runtimes.handler import Handler


def _text(document: dict[str, Any]) -> dict[str, str]:
    return {"info": msgspec.json.encode(document).decode()}


def pod(record: Pod) -> dict[str, str]:
    """`pid` is 0 where no process holds the pod; `runtimeSpec` then has its namespaces only."""
    namespaces = [{"type": type, "path": path} for type, path in sorted(record.namespaces.items())]
    return _text(
        {
            "sandboxID": record.id,
            "pid": record.task.pid if record.task is not None else 0,
            "runtimeHandler": record.handler,
            "cgroup": record.cgroup,
            "network": record.attachment,
            "config": record.spec,
            "runtimeSpec": {"linux": {"namespaces": namespaces, "cgroupsPath": record.cgroup}},
        }
    )


def container(record: Container, handler: Handler) -> dict[str, str]:
    """`runtimeSpec` is the config.json that the runtime was given; absent once its bundle is gone."""
    try:
        spec: dict[str, Any] | None = handler.spec(record.id)
    except NotFound:
        spec = None
    return _text(
        {
            "sandboxID": record.pod_id,
            "pid": record.task.pid if record.task is not None and not record.finished_at else 0,
            "monitorPid": record.task.monitor_pid if record.task is not None else 0,
            "runtimeHandler": record.handler,
            "cgroup": record.cgroup,
            "snapshotKey": record.snapshot,
            "config": record.spec,
            "runtimeSpec": spec,
        }
    )


def image(record: Image) -> dict[str, str]:
    """The config as an image has it, where sets are objects with empty values."""
    config = msgspec.to_builtins(record.config)
    sets: dict[str, Any] = {
        name: {key: {} for key in config[name]} for name in ("Volumes", "ExposedPorts") if name in config
    }
    return _text({"chainID": record.chain_id, "imageSpec": {"config": {**config, **sets}}})
