"""Running plugins: what they see, and what becomes of those that refuse, talk nonsense or hang."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from ropewalk.errors import Kind, NotFound, RopewalkError
from ropewalk.network import plugins


def plugin(directory: Path, name: str, script: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


def runner(*directories: Path, timeout: float = 5.0) -> plugins.Plugins:
    return plugins.Plugins([str(directory) for directory in directories], timeout)


async def test_a_plugin_sees_its_call_and_nothing_of_the_daemons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    plugin(tmp_path / "a", "show", "env; cat")
    said = await runner(tmp_path / "a", tmp_path / "b").run(
        "ADD", "show", b"{}", container_id="c", netns="/n", interface="eth0", arguments="A=1;B=2"
    )
    lines = said.decode().splitlines()
    assert lines[-1] == "{}"
    seen = dict(line.split("=", 1) for line in lines[:-1])
    assert seen.pop("PATH").startswith("/usr/local/sbin:")
    assert {key: value for key, value in seen.items() if key not in ("PWD", "_", "SHLVL", "OLDPWD")} == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c",
        "CNI_NETNS": "/n",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "A=1;B=2",
        "CNI_PATH": f"{tmp_path}/a:{tmp_path}/b",
    }


async def test_the_first_directory_wins(tmp_path: Path) -> None:
    plugin(tmp_path / "a", "both", "echo a")
    plugin(tmp_path / "b", "both", "echo b")
    plugin(tmp_path / "b", "one", "echo b")
    (tmp_path / "a/one").write_text("not executable")
    found = runner(tmp_path / "a", tmp_path / "b")
    assert (await found.run("STATUS", "both", b"{}"), await found.run("STATUS", "one", b"{}")) == (b"a\n", b"b\n")
    with pytest.raises(NotFound, match=r"'none' is in none of .*/a, .*/b; install it"):
        await found.run("STATUS", "none", b"{}")


@pytest.mark.parametrize(
    ("script", "said", "kind"),
    [
        ('echo \'{"code": 11, "msg": "busy"}\'; exit 1', r"\(code 11\): busy$", Kind.UNAVAILABLE),
        ('echo \'{"code": 100, "msg": "m", "details": "d"}\'; exit 1', r"\(code 100\): m; d$", Kind.INTERNAL),
        ("echo oops >&2; exit 3", r"\(exit 3\): oops$", Kind.INTERNAL),
        ("echo 'not json'; exit 1", r"\(exit 1\): not json$", Kind.INTERNAL),
        ("""printf '{"msg": "\\377"}'; exit 1""", r'\(exit 1\): {"msg": "\ufffd"}$', Kind.INTERNAL),
        ("exit 1", "it said nothing", Kind.INTERNAL),
        ("kill -9 $$", r"\(signal 9\)", Kind.INTERNAL),
    ],
)
async def test_a_refusal_is_in_the_plugins_words(tmp_path: Path, script: str, said: str, kind: Kind) -> None:
    plugin(tmp_path, "p", script)
    with pytest.raises(plugins.Failed, match=f"^CNI ADD: the plugin p failed .*{said}") as caught:
        await runner(tmp_path).run("ADD", "p", b"{}")
    assert caught.value.kind is kind


async def test_a_plugin_that_cannot_be_run_is_said(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("no program")
    (tmp_path / "p").chmod(0o755)
    with pytest.raises(plugins.Failed, match=r"cannot run the plugin p: .*Exec format error"):
        await runner(tmp_path).run("ADD", "p", b"{}")


async def test_a_plugin_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    plugin(tmp_path, "p", f"sleep 100 & echo $! >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/child; wait")
    for limit in ("0.2", "1", "5"):  # a shell that has to wait for a CPU may not have come so far in less
        with pytest.raises(RopewalkError, match=f"the plugin p did not end within {limit} s and was killed") as caught:
            await runner(tmp_path, timeout=float(limit)).run("ADD", "p", b"{}")
        assert caught.value.kind is Kind.TIMEOUT
        if (tmp_path / "child").exists():
            break
    child = int((tmp_path / "child").read_text())
    async with asyncio.timeout(20):
        while alive(child):
            await asyncio.sleep(0.001)


def alive(pid: int) -> bool:
    """Whether it runs; a child that nobody has reaped yet does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_versions_are_asked_once_per_installed_file(tmp_path: Path) -> None:
    answer = json.dumps({"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]})
    plugin(tmp_path, "p", f"echo x >>{tmp_path}/asked; echo '{answer}'")
    found = runner(tmp_path)
    for _ in range(3):
        assert await found.versions("p") == ["0.4.0", "1.0.0"]
    os.utime(tmp_path / "p", (1, 1))
    await found.versions("p")
    assert (tmp_path / "asked").read_text() == "x\nx\n"


@pytest.mark.parametrize(("script", "said"), [("echo hello", "hello"), ("printf '{\\377}'", "{\ufffd}")])
async def test_nonsense_for_versions_is_said(tmp_path: Path, script: str, said: str) -> None:
    plugin(tmp_path, "p", script)
    with pytest.raises(plugins.Failed, match=f"answered '{said}'"):
        await runner(tmp_path).versions("p")


async def test_plugins_that_an_earlier_daemon_left_are_killed_with_their_children(tmp_path: Path) -> None:
    """Those of the attachments named, and no other process."""
    script = "sleep 100 & echo $!; wait"
    strays = []
    for id in ("ours", "theirs"):
        stray = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", script, env={"CNI_CONTAINERID": id}, start_new_session=True, stdout=asyncio.subprocess.PIPE
        )
        assert stray.stdout is not None
        strays.append((stray, int(await stray.stdout.readline())))
    (ours, our_child), (theirs, their_child) = strays
    try:
        await runner(tmp_path).end_strays({"ours", "gone"})
        assert await ours.wait() == -signal.SIGKILL
        async with asyncio.timeout(20):
            while alive(our_child):
                await asyncio.sleep(0.001)
        assert theirs.returncode is None
        assert alive(their_child)
    finally:
        os.killpg(theirs.pid, signal.SIGKILL)
        await theirs.wait()
