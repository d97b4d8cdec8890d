"""Checkpoints over a node in memory: what is refused, what is left when one fails, and what a restore believes."""

from __future__ import annotations

import asyncio
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import offload
from ropewalk.pods import archives, checkpoints
from ropewalk.pods.records import Container, ContainerPhase, PodPhase
from ropewalk.runtimes.handler import Capabilities, Level, Probe
from ropewalk.spec.container import Mount
from tests.fakes.world import FakeHandler, World
from tests.unit.pods.conftest import Bench, Gate, container_spec, pod_spec, settle

VERSION = "runtime 1"


@pytest.fixture
def able(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Its handler saves and restores; what the workers would do is done at once."""

    async def call(_: offload.Offload, fn: Any, *args: Any, **__: Any) -> Any:
        return fn(*args)

    monkeypatch.setattr(offload.Offload, "call", call)
    monkeypatch.setattr(FakeHandler, "capabilities", Capabilities(checkpoint=True))
    bench.daemon.health.note("crun", Probe(Level.WORKS, VERSION))
    return bench


def left(bench: Bench) -> list[str]:
    directory = bench.daemon.containers.checkpoints._directory
    return os.listdir(directory) if os.path.isdir(directory) else []


async def running(bench: Bench, name: str = "c", *, pod: str = "web") -> str:
    made = await bench.daemon.sandboxes.run(pod_spec(pod))
    container = await bench.daemon.containers.create(made.id, container_spec(name))
    await bench.daemon.containers.start(container.id)
    return container.id


async def restored(bench: Bench, path: Path, **fields: Any) -> Container:
    pod = await bench.daemon.sandboxes.run(pod_spec("other"))
    return await bench.daemon.containers.create(pod.id, container_spec(image=str(path), **fields))


async def test_an_archive_says_whose_it_is(able: Bench, place: Path) -> None:
    id = await running(able)
    await able.daemon.containers.checkpoint(id, str(place / "a.tar"), 0)
    assert able.daemon.containers.get(id).phase is ContainerPhase.RUNNING
    assert left(able) == []
    with tarfile.open(place / "a.tar") as tar:
        read = {name: json.load(tar.extractfile(name)) for name in ("config.dump", "spec.dump", "status.dump")}  # type: ignore[arg-type]
    config = read["config.dump"]
    assert config["id"] == id
    assert (config["name"], config["runtime"], config["restored"]) == ("c", "crun", False)
    assert config["rootfsImageName"] == "docker.io/library/box:1"
    assert config["checkpointedTime"].endswith("Z")
    assert config["ropewalk"] == {"handler": "crun", "runtime_version": VERSION, "image_id": "sha256:i"}
    assert read["spec.dump"]["process"]["args"] == ["sleep"]
    assert read["status.dump"]["metadata"] == {"name": "c", "attempt": 0}


async def test_a_handler_without_it_refuses_before_any_work(bench: Bench, place: Path) -> None:
    id = await running(bench)
    with pytest.raises(RopewalkError, match="'crun' cannot checkpoint or restore") as caught:
        await bench.daemon.containers.checkpoint(id, str(place / "a.tar"), 0)
    assert caught.value.kind is Kind.UNSUPPORTED
    assert "no handler of this node can" in caught.value.hint
    assert (os.listdir(place), left(bench)) == ([], [])


async def test_an_unknown_container_is_not_found(able: Bench, place: Path) -> None:
    with pytest.raises(RopewalkError) as caught:
        await able.daemon.containers.checkpoint("00", str(place / "a.tar"), 0)
    assert caught.value.kind is Kind.NOT_FOUND


async def test_only_what_runs(able: Bench, place: Path) -> None:
    pod = await able.daemon.sandboxes.run(pod_spec())
    container = await able.daemon.containers.create(pod.id, container_spec())
    with pytest.raises(RopewalkError, match="not running") as caught:
        await able.daemon.containers.checkpoint(container.id, str(place / "a.tar"), 0)
    assert caught.value.kind is Kind.STATE


async def test_only_what_is_alone_in_its_pod(able: Bench, place: Path) -> None:
    id = await running(able)
    pod = able.daemon.containers.get(id).pod_id
    other = await able.daemon.containers.create(pod, container_spec("sidecar"))
    with pytest.raises(RopewalkError, match="has other containers: sidecar") as caught:
        await able.daemon.containers.checkpoint(id, str(place / "a.tar"), 0)
    assert caught.value.kind is Kind.STATE
    await able.daemon.containers.start(other.id)
    await able.daemon.containers.stop(other.id, 0)
    await able.daemon.containers.checkpoint(id, str(place / "a.tar"), 0)


async def test_stop_overtakes_it_and_whoever_asked_is_told(able: Bench, place: Path) -> None:
    """gRPC does not answer a call that is cancelled from within: the client would wait for its deadline."""
    id = await running(able)
    able.world.hook = gate = Gate("checkpoint")
    saving = asyncio.ensure_future(able.daemon.containers.checkpoint(id, str(place / "a.tar"), 0))
    await gate.reached.wait()
    await able.daemon.sandboxes.stop(able.daemon.containers.get(id).pod_id)
    with pytest.raises(RopewalkError, match="overtaken") as caught:
        await saving
    assert caught.value.kind is Kind.CANCELLED
    assert (os.listdir(place), left(able)) == ([], [])


async def test_a_client_that_leaves_ends_it(able: Bench, place: Path) -> None:
    id = await running(able)
    able.world.hook = gate = Gate("checkpoint")
    saving = asyncio.ensure_future(able.daemon.containers.checkpoint(id, str(place / "a.tar"), 0))
    await gate.reached.wait()
    saving.cancel()
    async with able.daemon.containers._queues.turn(able.daemon.containers.get(id).pod_id):
        assert (os.listdir(place), left(able)) == ([], [])


async def test_nothing_is_kept_of_one_that_is_given_up_twice(
    able: Bench, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its client, then by a Stop, while its files are being removed."""
    id = await running(able)
    saved, removed = Gate("checkpoint"), Gate("removal")
    able.world.hook = saved
    ours = able.daemon.containers.checkpoints

    async def remove(_: checkpoints.Checkpoints, name: str) -> None:
        await removed("removal")
        os.rmdir(ours._path(name))

    monkeypatch.setattr(checkpoints.Checkpoints, "_remove", remove)
    monkeypatch.setattr(FakeHandler, "checkpoint", lambda self, *_: self.world.hook("checkpoint"))
    saving = asyncio.ensure_future(able.daemon.containers.checkpoint(id, str(place / "a.tar"), 0))
    await saved.reached.wait()
    saving.cancel()
    await removed.reached.wait()
    await able.daemon.sandboxes.stop(able.daemon.containers.get(id).pod_id)
    removed.opened.set()
    await settle()
    assert (left(able), ours._saving) == ([], set())


async def test_a_failure_leaves_nothing(able: Bench, place: Path) -> None:
    id = await running(able)

    async def hook(where: str) -> None:
        if where == "checkpoint":
            raise RopewalkError("save rejected")

    able.world.hook = hook
    with pytest.raises(RopewalkError, match="save rejected"):
        await able.daemon.containers.checkpoint(id, str(place / "a.tar"), 0)
    assert (os.listdir(place), left(able)) == ([], [])
    assert able.daemon.containers.get(id).phase is ContainerPhase.RUNNING


async def test_a_deadline_is_kept(able: Bench, place: Path) -> None:
    id = await running(able)

    async def hook(where: str) -> None:
        if where == "checkpoint":
            await asyncio.Event().wait()

    able.world.hook = hook
    with pytest.raises(RopewalkError, match=r"did not end within 0\.01 s") as caught:
        await able.daemon.containers.checkpoint(id, str(place / "a.tar"), 0.01)
    assert caught.value.kind is Kind.TIMEOUT
    assert (os.listdir(place), left(able)) == ([], [])


async def test_what_a_killed_daemon_left_is_swept(able: Bench) -> None:
    id = await running(able)
    directory = Path(able.daemon.containers.checkpoints._directory)
    for name in (id, "saving-00", "f" * 64, f"{'e' * 64}.part"):
        (directory / name).mkdir(parents=True)
        (directory / name / "checkpoint.img").write_text("x")
    await able.restart()
    assert left(able) == [id]


# Restoring


async def test_a_container_goes_on_from_an_archive(able: Bench, place: Path) -> None:
    path = place / "a.tar"
    await able.daemon.containers.checkpoint(await running(able), str(path), 0)
    container = await restored(able, path)
    assert (container.phase, container.image_id) == (ContainerPhase.CREATED, "sha256:i")
    assert container.image_name == "docker.io/library/box:1"
    assert able.world.restored == [(container.pod_id, container.id, b"memory")]
    assert left(able) == [container.id]
    await able.daemon.containers.start(container.id)
    assert left(able) == []
    assert able.daemon.sandboxes.get(container.pod_id).phase is PodPhase.READY
    await able.daemon.containers.remove(container.id)
    assert able.daemon.sandboxes.get(container.pod_id).phase is PodPhase.READY


async def test_the_spec_is_the_live_requests(able: Bench, place: Path) -> None:
    """CVE-2024-8676, CVE-2026-53492: an archive brings no mounts, devices, hooks or annotations."""
    path = place / "a.tar"
    origin = archives.Origin(runtime_version=VERSION, image_id="sha256:i")
    hostile = {
        "process": {"args": ["sh"], "user": {"uid": 0}},
        "mounts": [{"destination": "/host", "source": "/", "type": "bind"}],
        "hooks": {"prestart": [{"path": "/evil"}]},
        "annotations": {"cdi.k8s.io/evil": "vendor.com/device=all"},
        "linux": {"devices": [{"path": "/dev/sda"}]},
    }
    saved = place.parent / "saved"
    saved.mkdir()
    (saved / "checkpoint.img").write_bytes(b"memory")
    status = {"annotations": {"run.oci.hooks.stdout": "x"}, "labels": {"evil": "yes"}}
    documents = {
        archives.CONFIG: msgspec.json.encode(archives.Config(name="c", ropewalk=origin)),
        archives.SPEC: json.dumps(hostile).encode(),
        archives.STATUS: json.dumps(status).encode(),
    }
    archives.write(str(path), str(saved), documents)
    asked = container_spec(command=["mine"], mounts=[Mount("/data", str(place))])
    from_image = await able.daemon.containers.create((await able.daemon.sandboxes.run(pod_spec("plain"))).id, asked)
    from_archive = await restored(able, path, command=["mine"], mounts=[Mount("/data", str(place))])
    specs = [
        json.dumps(able.world.plans[one.id].spec)
        .replace(one.id, "ID")
        .replace(one.pod_id, "POD")
        .replace(one.pod_id[:12], "POD")
        for one in (from_image, from_archive)
    ]
    specs = [one.replace("plain", "NAME").replace("other", "NAME").replace(str(path), "box") for one in specs]
    assert specs[0] == specs[1]
    assert (from_archive.spec.labels, from_archive.spec.annotations) == ({}, {})


async def test_an_image_that_is_not_here_is_not_pulled(able: Bench, place: Path) -> None:
    """CVE-2026-50195: an archive names no image of a registry, and makes no tag."""
    saved = place.parent / "saved"
    saved.mkdir()
    (saved / "checkpoint.img").write_bytes(b"memory")
    origin = archives.Origin(runtime_version=VERSION, image_id="sha256:other")
    config = archives.Config(name="c", rootfs_image_name="box", rootfs_image_ref="box", ropewalk=origin)
    archives.write(str(place / "a.tar"), str(saved), {archives.CONFIG: msgspec.json.encode(config)})
    with pytest.raises(RopewalkError, match="no image 'sha256:other'") as caught:
        await restored(able, place / "a.tar")
    assert caught.value.kind is Kind.NOT_FOUND


@pytest.mark.parametrize(
    ("config", "kind", "text"),
    [
        (archives.Config(name="c", runtime="runc"), Kind.UNSUPPORTED, "by 'runc' of another engine"),
        (
            archives.Config(name="c", ropewalk=archives.Origin(image_id="i", runtime_version="runtime 2")),
            Kind.UNSUPPORTED,
            "written by 'runtime 2', and runtime handler 'crun' is 'runtime 1'",
        ),
        (
            archives.Config(name="d", ropewalk=archives.Origin(image_id="i", runtime_version=VERSION)),
            Kind.INVALID,
            "of a container called 'd', not 'c'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(config: archives.Config, kind: Kind, text: str) -> None:
    with pytest.raises(RopewalkError, match=text) as caught:
        checkpoints.check("/a.tar", config, FakeHandler(World()), VERSION, container_spec())
    assert caught.value.kind is kind


async def test_a_handler_without_it_restores_nothing(able: Bench, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "a.tar"
    await able.daemon.containers.checkpoint(await running(able), str(path), 0)
    monkeypatch.setattr(FakeHandler, "capabilities", Capabilities())
    with pytest.raises(RopewalkError, match="cannot checkpoint or restore") as caught:
        await restored(able, path)
    assert caught.value.kind is Kind.UNSUPPORTED


async def test_a_pod_with_others_restores_nothing(able: Bench, place: Path) -> None:
    path = place / "a.tar"
    id = await running(able)
    await able.daemon.containers.checkpoint(id, str(path), 0)
    pod = able.daemon.containers.get(id).pod_id
    with pytest.raises(RopewalkError, match="has other containers: c"):
        await able.daemon.containers.create(pod, container_spec(image=str(path), attempt=1))
    await able.daemon.containers.stop(id, 0)
    again = await able.daemon.containers.create(pod, container_spec(image=str(path), attempt=1))
    await able.daemon.containers.start(again.id)


async def test_a_bad_archive_harms_no_pod(able: Bench, place: Path) -> None:
    path = place / "a.tar"
    await able.daemon.containers.checkpoint(await running(able), str(path), 0)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"memory")])
    with pytest.raises(RopewalkError, match="ends in the middle"):
        await restored(able, path)
    [pod] = [pod for pod in able.daemon.sandboxes.list() if pod.spec.metadata.name == "other"]
    assert pod.phase is PodPhase.READY
    assert left(able) == []


@pytest.mark.parametrize("where", ["restore_pod", "create"])
async def test_a_pod_whose_container_does_not_come_is_not_ready(able: Bench, place: Path, where: str) -> None:
    """What was made for it waits for that container, and serves no other."""
    path = place / "a.tar"
    await able.daemon.containers.checkpoint(await running(able), str(path), 0)

    async def hook(point: str) -> None:
        if point == where:
            raise RopewalkError("no")

    pod = await able.daemon.sandboxes.run(pod_spec("other"))
    able.world.hook = hook
    with pytest.raises(RopewalkError, match="no"):
        await able.daemon.containers.create(pod.id, container_spec(image=str(path)))
    assert able.daemon.sandboxes.get(pod.id).phase is PodPhase.NOTREADY
    assert left(able) == []


async def test_a_restored_container_that_is_never_started_costs_its_pod(able: Bench, place: Path) -> None:
    path = place / "a.tar"
    await able.daemon.containers.checkpoint(await running(able), str(path), 0)
    container = await restored(able, path)
    await able.daemon.containers.remove(container.id)
    assert able.daemon.sandboxes.get(container.pod_id).phase is PodPhase.NOTREADY
    assert left(able) == []


async def test_no_other_comes_before_the_restored_one_runs(able: Bench, place: Path) -> None:
    path = place / "a.tar"
    await able.daemon.containers.checkpoint(await running(able), str(path), 0)
    container = await restored(able, path)
    with pytest.raises(RopewalkError, match="waits for its container 'c' to be restored") as caught:
        await able.daemon.containers.create(container.pod_id, container_spec("sidecar"))
    assert caught.value.kind is Kind.STATE
    await able.daemon.containers.start(container.id)
    await able.daemon.containers.create(container.pod_id, container_spec("sidecar"))


async def test_an_attempt_that_failed_does_not_cost_the_next_its_pod(able: Bench, place: Path) -> None:
    path = place / "a.tar"
    await able.daemon.containers.checkpoint(await running(able), str(path), 0)
    first = await restored(able, path)

    async def hook(point: str) -> None:
        if point == "start":
            raise RopewalkError("no")

    able.world.hook = hook
    with pytest.raises(RopewalkError, match="no"):
        await able.daemon.containers.start(first.id)
    able.world.hook = no_hook
    second = await restored(able, path, attempt=1)
    await able.daemon.containers.remove(first.id)
    assert able.daemon.sandboxes.get(first.pod_id).phase is PodPhase.READY
    await able.daemon.containers.start(second.id)
    assert left(able) == []


async def no_hook(_: str) -> None:
    """Nothing happens."""


def test_every_field_of_a_status_is_one_of_the_cris() -> None:
    from ropewalk.wire.pb import cri_pb2 as pb

    record = Container(
        id="a", pod_id="b", spec=container_spec(), phase=ContainerPhase.RUNNING, handler="", boot_id="", cgroup="",
        image_id="",
    )  # fmt: skip
    known = {field.name for field in pb.ContainerStatus.DESCRIPTOR.fields}
    assert set(checkpoints._status(replace(record, started_at=1))) <= known
