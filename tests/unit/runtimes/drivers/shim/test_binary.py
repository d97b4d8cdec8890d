"""A shim's program: its name, its answers, and what is learnt of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import cgroup
from ropewalk.runtimes.drivers.shim import binary, options
from ropewalk.runtimes.drivers.shim.binary import Dialect, Endpoint, Knowledge
from ropewalk.wire.pb import shim_pb2 as pb

ADDRESS = "unix:///run/containerd/s/0123"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("io.containerd.runc.v2", "containerd-shim-runc-v2"),
        ("io.containerd.kata.v2", "containerd-shim-kata-v2"),
        ("/opt/kata/bin/containerd-shim-kata-v2", "/opt/kata/bin/containerd-shim-kata-v2"),
        ("containerd-shim-runsc-v1", "containerd-shim-runsc-v1"),
        ("a.b", "a.b"),
        ("io..v2", "io..v2"),
    ],
)
def test_a_runtime_name_is_a_file_name(name: str, file: str) -> None:
    assert binary.file_name(name) == file


@pytest.mark.parametrize(
    ("answer", "endpoint"),
    [
        (ADDRESS.encode(), Endpoint(ADDRESS, 2)),
        (f"{ADDRESS}\n".encode(), Endpoint(ADDRESS, 2)),
        (b'{"version":3,"address":"%b","protocol":"ttrpc"}' % ADDRESS.encode(), Endpoint(ADDRESS, 3)),
        (b'{"version":2,"address":"%b"}' % ADDRESS.encode(), Endpoint(ADDRESS, 2)),
        (pb.BootstrapResult(version=3, address=ADDRESS, protocol="ttrpc").SerializeToString(), Endpoint(ADDRESS, 3)),
        (b"hvsock:///run/vm.sock:1024", Endpoint("hvsock:///run/vm.sock:1024", 2)),
    ],
)
def test_every_form_of_answer_is_read(answer: bytes, endpoint: Endpoint) -> None:
    assert binary.parse_answer(answer, "id") == endpoint


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (b"", Kind.INTERNAL, "no address"),
        (b"panic: out of luck", Kind.INTERNAL, "no address"),
        (b"usage: unix://x\nand more", Kind.INTERNAL, "no address"),
        (b'{"version":3,"address":"unix:///s","protocol":"grpc"}', Kind.UNSUPPORTED, "grpc"),
        (b'{"version":4,"address":"unix:///s"}', Kind.UNSUPPORTED, "task API 4"),
        (pb.BootstrapResult(version=1, address=ADDRESS).SerializeToString(), Kind.UNSUPPORTED, "task API 1"),
    ],
)
def test_what_is_no_answer_is_said(answer: bytes, kind: Kind, text: str) -> None:
    with pytest.raises(RopewalkError, match=text) as caught:
        binary.parse_answer(answer, "id")
    assert caught.value.kind is kind


class Programs:
    """Shell scripts as shims, each with a log of what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bundle = directory / "bundle"
        self.bundle.mkdir()
        self.place = binary.Place("ns", "/events", "/identity", str(directory / "known"))

    def write(self, body: str, name: str = "containerd-shim-test-v2") -> binary.Binary:
        path = self.directory / name
        path.write_text(f'#!/bin/sh\ncat > $0.stdin\necho "$@" >> $0.log\n{body}\n')
        path.chmod(0o755)
        return binary.Binary(str(path), self.place)

    def asked(self, name: str = "containerd-shim-test-v2") -> list[str]:
        log = self.directory / f"{name}.log"
        return log.read_text().splitlines() if log.exists() else []

    async def start(self, program: binary.Binary, id: str = "box") -> Endpoint:
        launch = binary.Launch(
            id=id, bundle=str(self.bundle), options=options.build_runc(root="/r").SerializeToString()
        )
        return await program.start(launch, cgroup.detect())


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


IS_BOOTSTRAP = "grep -q identity $0.stdin"


async def test_an_old_shim_gets_its_options_alone(programs: Programs) -> None:
    program = programs.write(f"{IS_BOOTSTRAP} && exit 1; echo {ADDRESS}")
    assert await programs.start(program) == Endpoint(ADDRESS)
    [line] = programs.asked()
    assert line == "-namespace ns -address /identity -publish-binary /bin/true -id box start"
    content = Path(f"{program.path}.stdin").read_bytes()
    assert pb.Any.FromString(content).type_url == options.RUNC


async def test_a_new_shim_gets_parameters_and_is_remembered(programs: Programs) -> None:
    program = programs.write(f"{IS_BOOTSTRAP} || {{ echo deprecated API >&2; exit 1; }}; echo {ADDRESS}")
    for _ in range(2):
        assert await programs.start(program) == Endpoint(ADDRESS)
    assert len(programs.asked()) == 3  # refused once
    params = pb.BootstrapParams.FromString(Path(f"{program.path}.stdin").read_bytes())
    assert (params.instance_id, params.namespace, params.containerd_ttrpc_address) == ("box", "ns", "/events")
    assert pb.RuncOptions.FromString(params.extensions[0].value.value).root == "/r"
    later = binary.Binary(program.path, programs.place)  # the next daemon
    assert await programs.start(later) == Endpoint(ADDRESS)
    assert len(programs.asked()) == 4


async def test_a_replaced_program_is_asked_anew(programs: Programs) -> None:
    program = programs.write(f"echo {ADDRESS}")
    await programs.start(program)
    program.learn(groups=True)
    known = program.known()
    assert known is not None
    assert (known.dialect, known.groups) == (Dialect.LEGACY, True)
    os.utime(program.path, ns=(1, 1))
    assert program.known() is None
    programs.write(f"{IS_BOOTSTRAP} || exit 1; echo {ADDRESS}")
    await programs.start(program)
    known = program.known()
    assert known is not None
    assert (known.dialect, known.groups) == (Dialect.BOOTSTRAP, None)


async def test_a_file_of_knowledge_that_is_broken_is_no_knowledge(programs: Programs) -> None:
    program = programs.write(f"echo {ADDRESS}")
    os.makedirs(programs.place.directory)
    Path(programs.place.directory, "known.json").write_text("{")
    assert program.known() is None
    await programs.start(program)
    assert isinstance(program.known(), Knowledge)


async def test_a_shim_that_refuses_both_says_why(programs: Programs) -> None:
    program = programs.write(f"{IS_BOOTSTRAP} && echo no kernel >&2 || echo too old >&2; exit 1")
    with pytest.raises(RopewalkError, match=r"box: `containerd-shim-test-v2 start` failed: no kernel") as caught:
        await programs.start(program)
    assert "too old" in caught.value.__notes__[0]
    assert program.known() is None


async def test_a_shim_that_does_not_answer_is_ended(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "START_SECONDS", 0.05)
    program = programs.write("exec sleep 100")
    with pytest.raises(RopewalkError, match=r"did not end within 0\.05 s") as caught:
        await programs.start(program)
    assert caught.value.kind is Kind.TIMEOUT


async def test_the_verb_delete_tells_how_it_ended(programs: Programs) -> None:
    answer = Path(programs.directory, "answer")
    answer.write_bytes(pb.DeleteResponse(pid=7, exit_status=3).SerializeToString())
    program = programs.write(f"cat {answer}")
    seen = await program.delete("box", str(programs.bundle))
    assert seen is not None
    assert (seen.pid, seen.exit_status) == (7, 3)
    assert programs.asked()[0].endswith(f"-id box -bundle {programs.bundle} delete")
    failing = programs.write("echo broken >&2; exit 2")
    with pytest.raises(RopewalkError, match="delete` failed: broken"):
        await failing.delete("box", str(programs.bundle))


async def test_an_absent_program_is_unavailable(programs: Programs) -> None:
    with pytest.raises(RopewalkError, match="containerd-shim-nothing-v9") as caught:
        await programs.start(binary.Binary("io.example.nothing.v9", programs.place))
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_the_version_is_one_line(programs: Programs) -> None:
    program = programs.write("printf 'containerd-shim-test-v2:\\n  Version:  1.2\\n  Revision: x\\n'")
    assert await program.version() == "containerd-shim-test-v2 1.2"
