"""The commands' own rows, documents and calls, against both services on a real socket (without Admin)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec import structs

from ropewalk.cli import lifecycle, main, plan, progress, runner, usage
from ropewalk.cli.commands import checkpoint, images, info, inspect, pods, ps, rmi, runtimes
from ropewalk.client import cri, values
from ropewalk.errors import Kind, NotFound, RopewalkError, WrongState
from ropewalk.spec import pod
from ropewalk.spec.image import ImageSpec
from ropewalk.wire import grpc as wire
from tests.fakes import domain
from tests.unit.cri.conftest import Node

VERBS = [
    "checkpoint",
    "exec",
    "images",
    "info",
    "inspect",
    "logs",
    "pods",
    "ps",
    "pull",
    "rm",
    "rmi",
    "run",
    "runtimes",
    "stats",
    "stop",
]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[cri.Client]:
    node = Node(tmp_path)
    await node.health.refresh(["crun", "other"])
    node.images.record(domain.image())
    server = wire.Server(node.services())
    await server.start(str(tmp_path / "s"))
    async with cri.Client(str(tmp_path / "s")) as client:
        yield client
    await server.stop(0)
    node.database.close()


@pytest.fixture
def web(tmp_path: Path) -> plan.Plan:
    return plan.build(plan.Flags("busybox:1", name="web", log_dir=str(tmp_path / "logs"), label=["app=web"]))


def test_no_command_imports_what_it_may_not_need() -> None:
    """Help and completion load every verb: neither asyncio nor grpc, msgspec or rich."""
    script = (
        "import sys\nfrom ropewalk.cli import main\n"
        f"for verb in {VERBS}: main.ropewalk.main([verb, '--help'], standalone_mode=False)\n"
        "print(sorted({'asyncio', 'grpc', 'msgspec', 'logging', 'rich', 'socket'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_verb_has_json_and_an_address() -> None:
    for verb in VERBS:
        text = CliRunner().invoke(main.ropewalk, [verb, "--help"]).output
        assert "--json" in text, verb
        assert "--address" in text, verb


def test_wrong_usages() -> None:
    for arguments in (
        ["rm"],
        ["stop"],
        ["rmi"],
        ["logs", "--tail", "x", "y"],
        ["checkpoint"],
    ):
        assert CliRunner().invoke(main.ropewalk, arguments).exit_code == 2, arguments


def test_a_wrong_usage_is_no_code_that_the_command_may_return() -> None:
    for arguments in (["run", "-d", "--rm", "x"], ["run", "--bogus", "x"], ["run"], ["exec", "x"]):
        result = CliRunner().invoke(main.ropewalk, arguments)
        assert (result.exit_code, result.output.startswith("Usage: ropewalk ")) == (125, True), arguments


def test_streams_that_are_not_built_are_refused_clearly() -> None:
    for arguments in (["run", "-it", "busybox"], ["exec", "-it", "web", "sh"]):
        result = CliRunner().invoke(main.ropewalk, arguments)
        assert (result.exit_code, "not built yet" in result.output) == (125, True)


async def test_run_lists_and_removes(client: cri.Client, web: plan.Plan) -> None:
    await runner.ensure_image(client, "busybox:1", "never", quiet=True)
    ran = await runner.start(client, web)
    ((container, pod, status),) = await ps.listed(client, every=False, pod="web", labels=("app=web",))
    assert (container.id, container.state, status) == (ran.id, values.ContainerState.RUNNING, None)
    told = ps.document(container, pod, status)
    assert (told["name"], told["pod"], told["state"], told["exit_code"]) == ("web", "web", "running", None)
    assert ps.row(container, pod, status, whole=False)[3:5] == ["Running", "web"]
    assert pods.row(pod, ["10.0.0.2"], whole=False)[2:5] == ["Ready", "web", "default"] if pod else False
    with pytest.raises(RopewalkError, match="has the name web already") as caught:
        await runner.start(client, web)
    assert caught.value.kind is Kind.EXISTS
    assert pod is not None
    with pytest.raises(WrongState, match="pod web runs web"):
        await lifecycle.remove_pod(client, pod, force=False)
    await lifecycle.remove_pod(client, pod, force=True)
    assert await client.pods() == []


async def test_a_run_that_fails_leaves_nothing(client: cri.Client, tmp_path: Path) -> None:
    planned = plan.build(plan.Flags("nosuch:1", log_dir=str(tmp_path / "logs")))
    with pytest.raises(RopewalkError):
        await runner.start(client, planned)
    assert (await client.pods(), list((tmp_path / "logs").iterdir())) == ([], [])


async def test_a_run_that_is_left_leaves_nothing(
    client: cri.Client, web: plan.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the pod is being made: the endpoint goes on, as kubelet wants it to."""
    asked, run_pod = asyncio.Event(), client.run_pod

    async def on_its_way(spec: pod.PodSpec) -> str:
        id = await run_pod(spec)
        if not asked.is_set():
            asked.set()
            await asyncio.Event().wait()
        return id

    monkeypatch.setattr(client, "run_pod", on_its_way)
    start = asyncio.ensure_future(runner.start(client, web))
    await asked.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert await client.pods() == []


async def test_several_targets(client: cri.Client, web: plan.Plan, capsys: pytest.CaptureFixture[str]) -> None:
    ran = await runner.start(client, web)

    async def stop(client: cri.Client, target: lifecycle.Target) -> None:
        await lifecycle.stop_pod(client, target.id, 1)

    targets = ["web", ran.id, "nosuch"]
    done, code = await lifecycle.on_targets(client, targets, stop, every=True, quiet=False)
    assert (done, code) == ([{"kind": "pod", "id": ran.pod_id, "name": "web"}], 3)
    assert capsys.readouterr() == (
        "web\n",
        "ropewalk: no container or pod 'nosuch'; `ropewalk ps -a` and `ropewalk pods` list them\n",
    )
    ((_, _, status),) = await ps.listed(client, every=True, pod="", labels=())
    assert status is not None


async def test_pull_without_the_admin_service(
    client: cri.Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await progress.pull(client, "busybox:1") == domain.IMAGE_ID
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert await progress.pull(client, "busybox:1") == domain.IMAGE_ID
    assert "busybox:1" in capsys.readouterr().err


async def test_runtimes_without_the_admin_service(client: cri.Client) -> None:
    assert [(r["name"], r["default"]) for r in await runtimes.listed(client, probe=False)] == [
        ("", True),
        ("crun", False),
        ("other", False),
    ]
    (alone,) = runtimes.told(values.Version(runtime_name="containerd", runtime_version="1.6"), values.Status())
    assert (alone.name, alone.default, alone.works, alone.version) == ("", True, False, "containerd 1.6")


async def test_images(client: cri.Client, web: plan.Plan) -> None:
    (image,) = await client.images()
    (row,) = images.rows(image, digests=True, whole=False)
    assert row == ["docker.io/library/busybox", "1", "sha256:" + "2" * 64, "1" * 12, "1.23kB"]
    assert images.rows(values.Image(id="sha256:33"), digests=False, whole=False) == [["<none>", "<none>", "33", "0B"]]
    assert images.split("localhost:5000/x") == ("localhost:5000/x", "<none>")
    ran = await runner.start(client, web)
    users = await client.containers()
    with pytest.raises(WrongState, match="is used by web"):
        await rmi.remove(client, "busybox:1", users)
    with pytest.raises(NotFound, match="no image 'nosuch'"):
        await rmi.remove(client, "nosuch", users)
    await client.remove(ran.id)
    assert await rmi.remove(client, "busybox:1", await client.containers()) == domain.IMAGE_ID
    assert await client.image("busybox:1") is None


async def test_one_of_two_names_of_an_image_in_use_keeps_it(tmp_path: Path, web: plan.Plan) -> None:
    """To remove one is to remove the image."""
    node = Node(tmp_path)
    await node.health.refresh(["crun", "other"])
    image = domain.image()
    names = {**image.names, "docker.io/library/busybox:other": "sha256:" + "2" * 64}
    node.images.record(structs.replace(image, names=names))
    server = wire.Server(node.services())
    await server.start(str(tmp_path / "s"))
    async with cri.Client(str(tmp_path / "s")) as client:
        await runner.start(client, web)
        with pytest.raises(WrongState, match=r"image busybox:other is used by web"):
            await rmi.remove(client, "busybox:other", await client.containers())
        assert await rmi.remove(client, "busybox:other", []) == domain.IMAGE_ID
        assert await client.image("busybox:1") is None
    await server.stop(0)
    node.database.close()


async def test_inspect(client: cri.Client, web: plan.Plan) -> None:
    ran = await runner.start(client, web)
    of_container = await inspect.inspected(client, "web", list(inspect.KINDS))
    assert (of_container["kind"], of_container["status"]["id"]) == ("container", ran.id)
    assert (of_container["pod"]["id"], of_container["status"]["state"]) == (ran.pod_id, "RUNNING")
    of_pod = await inspect.inspected(client, ran.pod_id, list(inspect.KINDS))
    assert (of_pod["kind"], of_pod["info"]["info"]["sandboxID"]) == ("pod", ran.pod_id)
    assert (await inspect.inspected(client, "busybox:1", list(inspect.KINDS)))["kind"] == "image"
    with pytest.raises(NotFound, match="no container or pod or image 'nosuch'"):
        await inspect.inspected(client, "nosuch", list(inspect.KINDS))
    json.dumps([of_container, of_pod])
    assert inspect.parsed({"a": "{}", "b": "text"}) == {"a": {}, "b": "text"}


async def test_info(client: cri.Client) -> None:
    told = await info.collected(client)
    assert (told["runtime"], told["images"], told["pods"]) == ("ropewalk", 1, 0)
    assert {c["type"]: c["status"] for c in told["conditions"]}["RuntimeReady"]


async def test_stats(client: cri.Client, web: plan.Plan) -> None:
    ran = await runner.start(client, web)
    look = await usage.look(client, ["web"], every=False)
    (used,) = usage.used(look, look)
    assert (used.id, used.pod, used.received) == (ran.id, "web", 1)
    with pytest.raises(NotFound):
        await usage.look(client, ["nosuch"], every=False)


async def test_an_image_that_must_be_there(client: cri.Client) -> None:
    with pytest.raises(NotFound, match="ropewalk pull nosuch"):
        await runner.ensure_image(client, "nosuch", "never", quiet=True)
    await runner.ensure_image(client, "busybox:2", "missing", quiet=True)
    assert await client.pull(ImageSpec(image="busybox:2"))


async def test_a_checkpoint_is_written_to_an_absolute_path(
    client: cri.Client, web: plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[tuple[str, str, int]] = []

    async def noted(_: cri.Client, id: str, location: str, *, timeout: int) -> None:
        asked.append((id, location, timeout))

    monkeypatch.setattr(cri.Client, "checkpoint", noted)
    ran = await runner.start(client, web)
    found, path = await checkpoint.save(client, "web", "a.tar", 7)
    assert (found.id, path) == (ran.id, f"{tmp_path}/a.tar")
    _, named = await checkpoint.save(client, "web", "", 0)
    assert named.startswith(f"{tmp_path}/checkpoint-web-2")
    assert asked == [(ran.id, path, 7), (ran.id, named, 0)]


async def test_nobody_pulls_a_checkpoint(client: cri.Client) -> None:
    await runner.ensure_image(client, "/var/lib/kubelet/checkpoints/a.tar", "always", quiet=True)
