"""Which handlers this node has: types by name, sections of the configuration, and which handler a pod gets.

A type is a module with a `Config` (a handler.Config) and a `Handler`. Those of runtimes/handlers are built in; another
package adds one by an entry point of the group `ropewalk.handlers`, whose name is the type's and whose value is the
module. Installed packages are looked through only when a section names a type that is not built in: it takes some ten
milliseconds.

    [project.entry-points."ropewalk.handlers"]        # in the pyproject.toml of that package
    mine = "my_package.my_handler"

Every built-in type has a handler of its own name. A section [runtimes.NAME] with `type` makes one more.
"""

from __future__ import annotations

import functools
import importlib
import logging
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, cast

from msgspec import Struct

from ropewalk.errors import Invalid, Kind, RopewalkError
from ropewalk.runtimes import handlers, vanished
from ropewalk.runtimes.handler import Config, Handler, Node
from ropewalk.spec.pod import NamespaceMode, PodSpec

log = logging.getLogger(__name__)

GROUP = "ropewalk.handlers"

# Of the time before RuntimeClass: containerd's key with "true", CRI-O's with "false", ask for untrusted_runtime.
UNTRUSTED = {"io.kubernetes.cri.untrusted-workload": "true", "io.kubernetes.cri-o.TrustedSandbox": "false"}

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z", re.ASCII)  # RuntimeClass.handler: an RFC 1123 label


class Maker(Protocol):
    def __call__(self, config: Config, node: Node, *, name: str) -> Handler: ...


class Type(Protocol):
    """A module of a handler."""

    Config: type[Config]
    Handler: Maker


@functools.cache
def built_in() -> tuple[str, ...]:
    return tuple(sorted(found.name for found in pkgutil.iter_modules(handlers.__path__)))


def find(name: str) -> Type | None:
    """The type called `name`, None if nobody has it. Invalid if what an entry point names is no handler."""
    if name in built_in():
        return cast(Type, importlib.import_module(f"{handlers.__name__}.{name}"))
    from importlib import metadata

    for point in metadata.entry_points(group=GROUP, name=name):
        where = f"entry point {point.name!r} = {point.value!r} of {GROUP}"
        try:
            found = point.load()
        except Exception as error:  # whatever a foreign module does when it is imported
            raise Invalid(f"{where} cannot be imported: {error}") from error
        made, config = getattr(found, "Handler", None), getattr(found, "Config", None)
        if not (isinstance(made, type) and issubclass(made, Handler)):
            raise Invalid(f"{where} has no Handler", hint="see docs/runtimes/own-handler.md")
        if not (isinstance(config, type) and issubclass(config, Config)):
            raise Invalid(f"{where} has no Config", hint="see docs/runtimes/own-handler.md")
        return cast(Type, found)
    return None


def section(name: str, type: str) -> type[Config] | None:
    """The Config of the section [runtimes.NAME]; `type` as it stands there, "" if it does not. None if nothing reads
    the section. Invalid, naming it, if it cannot be a handler."""
    found = find(type or name)
    if found is None:
        if not type:
            return None
        raise Invalid(
            f"[runtimes.{name}] has type = {type!r}, and there is no such handler",
            hint=f"built in are {', '.join(built_in())}; a package may add one (entry point group {GROUP})",
        )
    if not _NAME.match(name):
        raise Invalid(f"[runtimes.{name}]: a handler's name has small letters, digits and -, at most 63 characters")
    return found.Config


def build(sections: Struct, node: Node, *, default: str, untrusted: str) -> Handlers:
    """`sections`: a Config for each handler, under its name."""
    made: dict[str, Handler] = {}
    for field, name in zip(sections.__struct_fields__, sections.__struct_encode_fields__, strict=True):
        config: Config = getattr(sections, field)
        found = find(config.type or name)
        assert found is not None, f"section {name} was read"
        made[name] = found.Handler(config, node, name=name)
    return Handlers(made, default, untrusted, node=node)


class UnknownHandler(RopewalkError):
    kind = Kind.INVALID  # the name came with the request (contract 1.2)

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(
            f"no runtime handler named {name!r}",
            hint=f"this node has {', '.join(sorted(known))}; add [runtimes.{name}] to /etc/ropewalk/config.toml",
        )


class Handlers(Mapping[str, Handler]):
    """The handlers of this node by name. `default` is what "" means; `untrusted`: the one of pods that are marked as
    untrusted, "" for none; `node`: for `of`."""

    def __init__(
        self, handlers: Mapping[str, Handler], default: str, untrusted: str = "", *, node: Node | None = None
    ) -> None:
        self._handlers = dict(handlers)
        self._node = node
        self._vanished: dict[str, Handler] = {}
        self.default = default
        self.untrusted = untrusted

    def __getitem__(self, name: str) -> Handler:
        handler = self._handlers.get(name or self.default)
        if handler is None:
            raise UnknownHandler(name, self._handlers)
        return handler

    def of(self, name: str) -> Handler:
        """The handler that a row names: if the configuration does not have it any more, what can end and remove its
        containers all the same (vanished.py). Without a node that is nobody: UnknownHandler."""
        if name in self._handlers or self._node is None:
            return self[name]
        if name not in self._vanished:
            log.error("a runtime handler of existing pods is not configured", extra={"handler": name})
            self._vanished[name] = vanished.Handler(Config(), self._node, name=name)
        return self._vanished[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)

    def choose(self, pod: PodSpec) -> Handler:
        """The pod's handler: the one of its RuntimeClass, else that of untrusted pods if it is marked as one, else the
        default."""
        mark = next((key for key, value in UNTRUSTED.items() if pod.annotations.get(key) == value), "")
        if not mark:
            return self[pod.runtime_handler]
        if not self.untrusted:
            raise Invalid(
                f"annotation {mark} says that the pod is not trusted, and this node has no handler for such pods",
                hint="set untrusted_runtime, or name a RuntimeClass instead of the annotation",
            )
        if pod.runtime_handler not in ("", self.untrusted):
            raise Invalid(
                f"annotation {mark} says that the pod is not trusted, and runtime_handler is {pod.runtime_handler!r}",
                hint=f"such pods run with {self.untrusted!r}: leave one of the two out",
            )
        for field in host_access(pod):
            raise Invalid(
                f"annotation {mark} says that the pod is not trusted, and {field} opens the node to it",
                hint="leave one of the two out",
            )
        return self[self.untrusted]


def host_access(pod: PodSpec) -> Iterator[str]:
    """The fields by which a pod gets at its node."""
    for kind in ("network", "pid", "ipc"):
        if getattr(pod.namespaces, kind) is NamespaceMode.NODE:
            yield f"linux.security_context.namespace_options.{kind} NODE"
    if pod.linux.security_context.privileged:
        yield "linux.security_context.privileged"
