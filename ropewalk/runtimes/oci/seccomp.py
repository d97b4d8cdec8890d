"""linux.seccomp: RuntimeDefault, Unconfined, or a profile file of the node (contract 6.9).

A profile file may be the OCI form (runtime-spec LinuxSeccomp) or Docker's (archMap, includes, excludes); it becomes
the OCI form here, field by field, so that nothing else of the file reaches the runtime.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from ropewalk import errors
from ropewalk.runtimes.oci import seccomp_default
from ropewalk.runtimes.oci.facts import NodeFacts
from ropewalk.spec.container import LinuxContainerSecurityContext
from ropewalk.spec.pod import LinuxSandboxSecurityContext, ProfileType, SecurityProfile

MAX_PROFILE = 1 << 20  # bytes
EPERM, ENOSYS = 1, 38

_ALLOW, _ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
_LOCALHOST = "localhost/"
# GOARCH names, as Docker's profiles write them
_GOARCH = {
    "x86_64": "amd64",
    "i686": "x86",
    "aarch64": "arm64",
    "armv7l": "arm",
    "ppc64le": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
    "loongarch64": "loong64",
}

Context = LinuxContainerSecurityContext | LinuxSandboxSecurityContext  # of a container, or of a pod's init

Action = Literal[
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
]
Operator = Literal[
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
]


Errno = Annotated[int, Meta(ge=0, le=4095)]  # MAX_ERRNO, include/linux/err.h


class Argument(Struct, frozen=True, rename="camel"):
    index: Annotated[int, Meta(ge=0, le=5)]
    op: Operator
    value: int = 0
    value_two: int = 0


class Condition(Struct, frozen=True, rename="camel"):
    """Docker's includes and excludes."""

    caps: list[str] | None = None
    arches: list[str] | None = None
    min_kernel: str = ""


class Syscall(Struct, frozen=True, rename="camel"):
    action: Action
    names: list[str] | None = None
    name: str = ""  # Docker's old form
    errno_ret: Errno | None = None
    args: list[Argument] | None = None
    includes: Condition | None = None
    excludes: Condition | None = None


class ArchMap(Struct, frozen=True, rename="camel"):
    architecture: str
    sub_architectures: list[str] | None = None


class Profile(Struct, frozen=True, rename="camel"):
    default_action: Action
    default_errno_ret: Errno | None = None
    architectures: list[str] | None = None
    arch_map: list[ArchMap] | None = None
    flags: list[str] | None = None
    listener_path: str = ""
    syscalls: list[Syscall] = field(default_factory=list)


def choose(security: Context) -> SecurityProfile | None:
    """The profile that was asked for, by the field or by the deprecated path; None is unconfined, as for everything
    privileged. The reference of a LOCALHOST one comes back as an absolute path."""
    if security.privileged:
        return None
    profile = security.seccomp or _deprecated(security.seccomp_profile_path)
    if profile is None:
        return None
    check(profile, "linux.security_context.seccomp")
    if profile.profile_type is ProfileType.UNCONFINED:
        return None
    return SecurityProfile(profile.profile_type, profile.localhost_ref.removeprefix(_LOCALHOST))


def profile_file(security: Context) -> str:
    """The file that the caller must read for `build`, or ""."""
    profile = choose(security)
    return profile.localhost_ref if profile is not None else ""


def check(profile: SecurityProfile, name: str) -> None:
    reference = profile.localhost_ref
    if profile.profile_type is not ProfileType.LOCALHOST:
        if reference:
            raise errors.Invalid(
                f"{name} has localhost_ref {reference[:200]!r} with profile_type {profile.profile_type.name}",
                hint="localhost_ref goes with profile_type Localhost",
            )
        return
    path = reference.removeprefix(_LOCALHOST)
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise errors.Invalid(
            f"{name} has localhost_ref {reference[:200]!r}", hint="an absolute path without .. is needed"
        )


def check_path(text: str) -> None:
    """The deprecated seccomp_profile_path."""
    profile = _deprecated(text)
    if profile is not None:
        check(profile, "linux.security_context.seccomp_profile_path")


def build(
    security: Context,
    profile_json: bytes | None,
    *,
    capabilities: frozenset[str],
    facts: NodeFacts,
) -> dict[str, Any] | None:
    """linux.seccomp, or None for unconfined. `profile_json` is the content of `profile_file(security)`."""
    profile = choose(security)
    if profile is None:
        return None
    if profile.profile_type is ProfileType.RUNTIME_DEFAULT:
        return default_profile(capabilities & frozenset(seccomp_default.BY_CAPABILITY), facts.architecture)
    if profile_json is None:
        raise errors.Invalid(
            f"the seccomp profile {profile.localhost_ref!r} cannot be read", hint="put the file on this node"
        )
    return parse(profile_json, profile.localhost_ref, capabilities=capabilities, facts=facts)


@functools.lru_cache(maxsize=64)
def default_profile(capabilities: frozenset[str], machine: str) -> dict[str, Any]:
    """RuntimeDefault for these capabilities. The result is shared: do not change it."""
    if machine not in seccomp_default.ARCHITECTURES:
        raise errors.Unsupported(
            f"there is no default seccomp profile for {machine}", hint="use a Localhost profile or Unconfined"
        )
    names = {name for group in seccomp_default.ALWAYS.values() for name in group.split()}
    names |= set(seccomp_default.BY_MACHINE.get(machine, "").split())
    if machine in ("x86_64", "i686", "s390x"):
        # The old multiplexer takes the socket family by pointer, where no filter can look, so 32-bit programs reach
        # every family. Refusing it would cut off images of distributions whose 32-bit libc knows nothing else.
        names.add("socketcall")
    for capability in capabilities:
        names |= set(seccomp_default.BY_CAPABILITY.get(capability, "").split())
    rules: list[dict[str, Any]] = []
    rules.append({"names": sorted(names), "action": _ALLOW})
    rules += _sockets()
    rules += [_allow_if("personality", 0, "SCMP_CMP_EQ", value) for value in seccomp_default.PERSONALITIES]
    if "CAP_SYS_ADMIN" not in capabilities:
        rules += _clones(machine)
    return {
        "defaultAction": _ERRNO,
        "defaultErrnoRet": EPERM,
        "architectures": seccomp_default.ARCHITECTURES[machine],
        "syscalls": rules,
    }


def parse(data: bytes, path: str, *, capabilities: frozenset[str], facts: NodeFacts) -> dict[str, Any]:
    """A profile file -> linux.seccomp; Invalid says what is wrong with the file."""
    if len(data) > MAX_PROFILE:
        raise errors.Invalid(f"the seccomp profile {path!r} has {len(data)} bytes", hint=f"{MAX_PROFILE} is the most")
    try:
        profile = msgspec.json.decode(data, type=Profile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.Invalid(f"the seccomp profile {path!r} is not understood: {error}") from None
    if profile.listener_path:
        raise errors.Unsupported(f"the seccomp profile {path!r} has listenerPath {profile.listener_path!r}")
    result: dict[str, Any] = {"defaultAction": profile.default_action}
    if profile.default_errno_ret is not None:
        result["defaultErrnoRet"] = profile.default_errno_ret
    architectures = _architectures(profile, facts.architecture)
    if architectures:
        result["architectures"] = architectures
    if profile.flags:
        result["flags"] = profile.flags
    result["syscalls"] = [
        _rule(rule, path)
        for rule in profile.syscalls
        if _applies(rule.includes, capabilities, facts, empty=True)
        and not _applies(rule.excludes, capabilities, facts, empty=False)
    ]
    return result


def _deprecated(text: str) -> SecurityProfile | None:
    """seccomp_profile_path -> profile; "" and "unconfined" are None."""
    if text in ("", "unconfined"):
        return None
    if text in ("runtime/default", "docker/default"):
        return SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    if text.startswith(_LOCALHOST):
        return SecurityProfile(ProfileType.LOCALHOST, text.removeprefix(_LOCALHOST))
    raise errors.Invalid(
        f"linux.security_context.seccomp_profile_path is {text[:200]!r}",
        hint="runtime/default, unconfined or localhost/<absolute path> is needed",
    )


def _sockets() -> list[dict[str, Any]]:
    below = _allow_if("socket", 0, "SCMP_CMP_LT", seccomp_default.FAMILIES_BELOW)
    return [below, *(_allow_if("socket", 0, "SCMP_CMP_EQ", family) for family in seccomp_default.FAMILIES)]


def _clones(machine: str) -> list[dict[str, Any]]:
    """Threads and processes, no namespaces. clone3 takes its flags by pointer, so it does not exist: libraries then
    use clone."""
    flags = 1 if machine == "s390x" else 0
    clone = _allow_if("clone", flags, "SCMP_CMP_MASKED_EQ", seccomp_default.CLONE_NAMESPACES)
    return [clone, {"names": ["clone3"], "action": _ERRNO, "errnoRet": ENOSYS}]


def _allow_if(name: str, index: int, op: str, value: int) -> dict[str, Any]:
    return {"names": [name], "action": _ALLOW, "args": [{"index": index, "value": value, "valueTwo": 0, "op": op}]}


def _architectures(profile: Profile, machine: str) -> list[str]:
    if profile.architectures:
        return profile.architectures
    own = seccomp_default.ARCHITECTURES.get(machine, [""])[0]
    for entry in profile.arch_map or []:
        if entry.architecture == own:
            return [entry.architecture, *(entry.sub_architectures or [])]
    return []


def _rule(rule: Syscall, path: str) -> dict[str, Any]:
    names = [*(rule.names or []), *([rule.name] if rule.name else [])]
    if not names:
        raise errors.Invalid(f"the seccomp profile {path!r} has a rule without names")
    result: dict[str, Any] = {"names": names, "action": rule.action}
    if rule.errno_ret is not None:
        result["errnoRet"] = rule.errno_ret
    if rule.args:
        result["args"] = [
            {"index": one.index, "value": one.value, "valueTwo": one.value_two, "op": one.op} for one in rule.args
        ]
    return result


def _applies(condition: Condition | None, capabilities: frozenset[str], facts: NodeFacts, *, empty: bool) -> bool:
    """Docker's meaning: an include needs all that it names, an exclude any of it. `empty`: of no condition."""
    if condition is None:
        return empty
    tests: list[bool] = []
    if condition.caps:
        held = [name in capabilities for name in condition.caps]
        tests.append(all(held) if empty else any(held))
    if condition.arches:
        tests.append(_GOARCH.get(facts.architecture) in condition.arches)
    if condition.min_kernel:
        tests.append(facts.kernel >= _version(condition.min_kernel))
    if not tests:
        return empty
    return all(tests) if empty else any(tests)


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise errors.Invalid(f"a seccomp profile has minKernel {text[:40]!r}", hint='"4.8" is the form')
    return int(major), int(minor)
