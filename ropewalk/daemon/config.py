"""The daemon's configuration: the parts' Config structs put together, and where their values come from.

Later wins: defaults, /etc/ropewalk/config.toml, /etc/ropewalk/conf.d/*.toml by name, ROPEWALK_<SECTION>_<KEY> of the
environment, the command line. A key that nothing reads is a warning with the nearest one; a value of the wrong type
is an error naming file, key and value.
"""

from __future__ import annotations

import glob
import os
import tomllib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

import msgspec
from msgspec import Meta, Struct

from ropewalk.daemon import logs, settings
from ropewalk.errors import Invalid
from ropewalk.images import pull, reference
from ropewalk.network import network
from ropewalk.pods import checkpoints
from ropewalk.runtimes import registry

FILE = "/etc/ropewalk/config.toml"
ROOT = "/var/lib/ropewalk"
STATE = "/run/ropewalk"
PREFIX = "ROPEWALK"
CLIENTS = ("ROPEWALK_ADDRESS",)  # where the command finds a daemon; a daemon is told its socket by file or flag


def _runtimes(types: Mapping[str, str]) -> type[Struct]:
    """One section per handler: those of runtimes/handlers, and those in `types`, section to type ("": its own name). A
    name with a hyphen or a leading digit is no identifier: its field is called otherwise, the key is not."""
    fields: list[tuple[str, Any, Any]] = []
    keys: dict[str, str] = {}
    for name in sorted({*registry.built_in(), *types}):
        config = registry.section(name, types.get(name, ""))
        if config is not None:
            field = name if name.isidentifier() else f"_{name.replace('-', '_')}"
            keys[field] = name
            fields.append((field, config, config()))
    return msgspec.defstruct("Runtimes", fields, frozen=True, module=__name__, rename=keys)


if TYPE_CHECKING:

    class Runtimes(Struct, frozen=True):
        """A section per handler."""
else:
    Runtimes = _runtimes({})


class Config(Struct, frozen=True):
    root: Annotated[str, Meta(description="Directory of images, layers and records.")] = ROOT
    state: Annotated[str, Meta(description="Directory of what lives as long as the node runs; on a tmpfs.")] = STATE
    address: Annotated[
        str, Meta(description="Unix socket that the CRI is served on; empty: ropewalk.sock in the state directory.")
    ] = ""
    default_runtime: Annotated[str, Meta(description="Handler of pods that name no RuntimeClass.")] = "crun"
    untrusted_runtime: Annotated[
        str,
        Meta(
            description="Handler of pods that an annotation marks as untrusted "
            "(io.kubernetes.cri.untrusted-workload: true, io.kubernetes.cri-o.TrustedSandbox: false) and that name no "
            "RuntimeClass; empty: they are refused."
        ),
    ] = ""
    snapshotter: Annotated[
        Literal["overlay", "native"],
        Meta(description='How layers become root file systems: "overlay" mounts them, "native" copies them.'),
    ] = "overlay"
    selinux: Annotated[
        bool,
        Meta(description="Give containers, and the files made for them, SELinux labels, where the kernel has SELinux."),
    ] = False
    cgroup_driver: Annotated[
        Literal["auto", "systemd", "cgroupfs"],
        Meta(
            description='Who makes cgroups, as the kubelet\'s cgroupDriver; "auto": systemd, where it is the init of a '
            "node with cgroup v2."
        ),
    ] = "auto"
    shutdown_grace: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="Seconds that containers get to end when systemd takes the node down; 0 leaves them to it.",
        ),
    ] = 10.0
    log: logs.Config = logs.Config()
    network: network.Config = network.Config()
    images: pull.Config = pull.Config()
    checkpoints: checkpoints.Config = checkpoints.Config()
    runtimes: Runtimes = Runtimes()

    @property
    def socket(self) -> str:
        path = self.address.removeprefix("unix://").removeprefix("unix:")
        return path or os.path.join(self.state, "ropewalk.sock")


def shaped(documents: Sequence[settings.Document]) -> type[Config]:
    """Config with the runtimes' sections that `documents` have beside the built-in ones."""
    types: dict[str, str] = {}
    for document in documents:
        sections = document.get("runtimes")
        for name, section in sections.items() if isinstance(sections, dict) else ():
            if isinstance(section, dict):
                types[name] = str(section.get("type", types.get(name, "")))
    if all(name in registry.built_in() and type in ("", name) for name, type in types.items()):
        return Config
    runtimes = _runtimes(types)
    made = msgspec.defstruct("Config", [("runtimes", runtimes, runtimes())], bases=(Config,), frozen=True)
    return cast("type[Config]", made)


STATE_LIMIT = 107 - len("/consoles/conmon-term.XXXXXX")  # sockaddr_un.sun_path, and conmon's console socket


class Loaded(NamedTuple):
    """The configuration, the warnings that were found on the way, and the files that were read."""

    config: Config
    warnings: list[str]
    files: list[str]


def load(
    file: str = "",
    overrides: settings.Document | None = None,
    assigned: Sequence[str] = (),
    *,
    environ: Mapping[str, str] = os.environ,
) -> Loaded:
    """Read everything. `file`: instead of /etc/ropewalk/config.toml (its conf.d is beside it); it must exist if given.
    `assigned` and then `overrides`: what the command line sets, as key=value and as flags of their own."""
    warnings: list[str] = []
    files = _files(file)
    documents = [read(path) for path in files]
    shape = shaped(documents)
    for path, document in zip(files, documents, strict=True):
        settings.parse(document, shape, path)
        warnings += [f"{path}: {warning}" for warning in settings.unknown(document, shape)]
        warnings += [f"{path}: {warning}" for warning in _without_type(document, shape)]
    own = {name: value for name, value in environ.items() if name not in CLIENTS}
    documents.append(settings.environment(own, shape, PREFIX))
    warnings += _unknown_variables(environ, shape)
    documents += [assignments(assigned, shape), overrides or {}]
    config = settings.parse(settings.merge(documents), shape, "configuration")
    return Loaded(_checked(config), warnings, files)


def _without_type(document: settings.Document, shape: type[Config]) -> list[str]:
    """What each section of no handler lacks."""
    sections = document.get("runtimes")
    known = {field.encode_name for field in msgspec.structs.fields(shape().runtimes)}
    strange = [name for name in sections if name not in known] if isinstance(sections, dict) else []
    hint = f"set its type, or install the package that has this one (entry point group {registry.GROUP})"
    return [f"[runtimes.{name}] is no handler; {hint}" for name in strange]


def _files(file: str) -> list[str]:
    main = file or FILE
    beside = glob.escape(os.path.dirname(os.path.abspath(main)))
    fragments = sorted(glob.glob(os.path.join(beside, "conf.d", "*.toml")))
    return [main, *fragments] if file or os.path.exists(main) else fragments


def read(path: str) -> settings.Document:
    """One TOML document. Raises Invalid naming the file and the place."""
    try:
        with open(path, "rb") as opened:
            return tomllib.load(opened)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"cannot read {path}: {error}") from error


def variable(key: settings.Key) -> str:
    """The environment variable that sets `key`; "" if none does."""
    name = settings.variable(key, PREFIX)
    return "" if name in CLIENTS else name


def _unknown_variables(environ: Mapping[str, str], shape: type[Config]) -> list[str]:
    known = {settings.variable(key, PREFIX) for key in settings.keys(shape)} | set(CLIENTS)
    strange = [name for name in environ if name.startswith(f"{PREFIX}_") and name not in known]
    return [f"environment: {settings.nearest(name, known)}" for name in sorted(strange)]


def _checked(config: Config) -> Config:
    """What no single part can check. Raises Invalid naming key and value."""
    for name in ("root", "state"):
        if not os.path.isabs(getattr(config, name)):
            raise Invalid(f"{name} = {getattr(config, name)!r} is not an absolute path")
    if len(os.fsencode(config.state)) > STATE_LIMIT:
        hint = (
            f"{STATE_LIMIT} bytes are the most: unix sockets below it have longer paths, of which the kernel takes 107"
        )
        raise Invalid(f"state = {config.state!r} is too long", hint=hint)
    if "://" in config.socket:
        raise Invalid(
            f"address = {config.address!r} is no unix socket", hint=f"for example unix://{STATE}/ropewalk.sock"
        )
    known = config.runtimes.__struct_encode_fields__
    for key, name in (("default_runtime", config.default_runtime), ("untrusted_runtime", config.untrusted_runtime)):
        if name not in known and (name or key == "default_runtime"):
            raise Invalid(
                f"{key} = {name!r}: this node has {', '.join(known)}", hint=f"[runtimes.{name}] with a type makes one"
            )
    for name in config.images.pinned:
        try:
            reference.parse(name)
        except Invalid as error:
            raise Invalid(f"images.pinned = {config.images.pinned!r}: {error}") from error
    return config


def defaults() -> str:
    """Every key with its default and its help, as a file to edit."""
    return settings.render(Config(), commented=True)


def text(config: Config) -> str:
    """As TOML that `load` reads."""
    return settings.render(config, commented=False)


def assignments(texts: Sequence[str], shape: type[Config] = Config) -> settings.Document:
    """What `--set section.key=value` says. Raises Invalid for a key that does not exist."""
    known = {key.name: key for key in settings.keys(shape)}
    documents = []
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise Invalid(f"--set {text!r} is not key=value")
        if name not in known:
            raise Invalid(f"--set {settings.nearest(name, set(known))}")
        documents.append(settings.assignment(known[name], value, f"--set {name}"))
    return settings.merge(documents)
