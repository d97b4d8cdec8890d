"""Where the daemon's configuration comes from, and what is wrong with it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ropewalk.daemon import config, settings
from ropewalk.errors import Invalid


def written(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_defaults() -> None:
    loaded = config.load(environ={})
    assert (loaded.config.root, loaded.config.state) == ("/var/lib/ropewalk", "/run/ropewalk")
    assert loaded.config.socket == "/run/ropewalk/ropewalk.sock"
    assert loaded.warnings == []


def test_file_fragments_environment_and_flags_in_this_order(tmp_path: Path) -> None:
    file = written(tmp_path / "config.toml", 'root = "/a"\nstate = "/a"\naddress = "/a"\nsnapshotter = "native"\n')
    written(tmp_path / "conf.d/20-b.toml", 'state = "/c"\naddress = "/c"\n')
    written(tmp_path / "conf.d/10-a.toml", 'state = "/b"\n')
    written(tmp_path / "conf.d/ignored.txt", "not toml")
    environ = {"ROPEWALK_STATE": "/d", "ROPEWALK_LOG_LEVEL": "debug", "HOME": "/"}
    loaded = config.load(file, {"address": "unix:///e"}, environ=environ)
    assert (loaded.config.root, loaded.config.state, loaded.config.socket) == ("/a", "/d", "/e")
    assert (loaded.config.snapshotter, loaded.config.log.level) == ("native", "debug")
    assert [Path(name).name for name in loaded.files] == ["config.toml", "10-a.toml", "20-b.toml"]


def test_a_section_of_no_handler_is_told_what_it_lacks(tmp_path: Path) -> None:
    file = written(tmp_path / "config.toml", '[runtimes.locked]\nprocesses = 1\n[runtimes.kata-qemu]\ntype = "shim"\n')
    unknown, lacks = config.load(file, environ={}).warnings
    assert unknown.startswith(f"{file}: unknown key runtimes.locked")
    assert "did you mean runtimes?" not in unknown
    assert lacks == (
        f"{file}: [runtimes.locked] is no handler; set its type, or install the package that has this one "
        "(entry point group ropewalk.handlers)"
    )


def test_unknown_keys_are_warnings_that_name_their_place(tmp_path: Path) -> None:
    file = written(tmp_path / "config.toml", '[netwrok]\nmtu = 1\n[runtimes.crun]\npaht = "x"\n')
    loaded = config.load(file, environ={"ROPEWALK_LOG_LEVL": "x", "ROPEWALK_ADDRESS": "/other"})
    assert loaded.warnings == [
        f"{file}: unknown key netwrok; did you mean network?",
        f"{file}: unknown key runtimes.crun.paht; did you mean runtimes.crun.path?",
        "environment: unknown key ROPEWALK_LOG_LEVL; did you mean ROPEWALK_LOG_LEVEL?",
    ]


def test_the_clients_address_is_not_the_daemons() -> None:
    assert config.load(environ={"ROPEWALK_ADDRESS": "/other"}).config.address == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("root = 3", r"config.toml: root = 3: Expected `str`, got `int`"),
        ("root =", r"cannot read .*config.toml: Invalid value \(at end of document\)"),
        ('state = "relative"', r"^state = 'relative' is not an absolute path"),
        ('default_runtime = "nope"', r"^default_runtime = 'nope': this node has .*crun"),
        ('address = "tcp://127.0.0.1:1"', r"^address = 'tcp://127\.0\.0\.1:1' is no unix socket"),
        ('[network]\nbridge = "ropewalk-of-sixteen"', r"config.toml: network.bridge = 'ropewalk-of-sixteen'"),
    ],
)
def test_wrong_values_are_errors(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        config.load(written(tmp_path / "config.toml", text), environ={})


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="No such file"):
        config.load(str(tmp_path / "absent.toml"), environ={})


def test_any_key_may_be_set_on_the_command_line() -> None:
    assigned = ["network.mtu=1400", "log.level=debug", "images.registry_hosts=/a,/b"]
    loaded = config.load("", {"log": {"level": "error"}}, assigned, environ={})
    assert loaded.config.log.level == "error"
    assert loaded.config.network.mtu == 1400
    assert loaded.config.images.registry_hosts == ["/a", "/b"]


@pytest.mark.parametrize(("text", "said"), [("network.mto=1", "network.mtu"), ("x", "not key=value")])
def test_a_wrong_assignment_is_an_error(text: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        config.assignments([text])


def test_every_key_has_a_help_text() -> None:
    assert [key.name for key in settings.keys(config.Config) if not key.help] == []


def test_the_printed_defaults_are_the_defaults() -> None:
    text = config.text(config.Config())
    assert settings.parse(tomllib.loads(text), config.Config, "") == config.Config()


def test_a_state_directory_too_deep_for_sockets_is_refused() -> None:
    with pytest.raises(Invalid, match="too long"):
        config.load("", {"state": "/" + "x" * 90}, environ={})


@pytest.mark.parametrize("address", ["/run/r.sock", "unix:///run/r.sock", "unix:/run/r.sock"])
def test_an_address_in_the_forms_that_clients_take(address: str) -> None:
    assert config.load("", {"address": address}, environ={}).config.socket == "/run/r.sock"


def test_fragments_are_found_beside_a_file_whatever_its_directory_is_called(tmp_path: Path) -> None:
    file = written(tmp_path / "[a]*?/config.toml", "")
    written(tmp_path / "[a]*?/conf.d/a.toml", 'root = "/a"\n')
    assert config.load(file, environ={}).config.root == "/a"
