"""Hidden and read-only paths, and AppArmor (contract 6.9, 6.8)."""

from __future__ import annotations

import re

from ropewalk import errors
from ropewalk.runtimes.oci.facts import NodeFacts
from ropewalk.spec.container import LinuxContainerSecurityContext
from ropewalk.spec.pod import ProfileType, SecurityProfile

_PROFILE_NAME = re.compile(r"[A-Za-z0-9_./:@+-]{1,255}\Z", re.ASCII)
_LOCALHOST = "localhost/"


def masked_paths(security: LinuxContainerSecurityContext) -> list[str]:
    """Paths hidden from the container. The kubelet decides: empty means none; privileged sees everything."""
    return [] if security.privileged else _absolute(security.masked_paths, "masked_paths")


def readonly_paths(security: LinuxContainerSecurityContext) -> list[str]:
    """Paths that the container cannot write. The kubelet decides, as above."""
    return [] if security.privileged else _absolute(security.readonly_paths, "readonly_paths")


def named_apparmor(security: LinuxContainerSecurityContext) -> str:
    """The profile of the node that was asked for by name, "" if none was."""
    profile = _asked(security)
    return _name(profile) if profile is not None and profile.profile_type is ProfileType.LOCALHOST else ""


def wants_default_apparmor(security: LinuxContainerSecurityContext) -> bool:
    """Whether the default profile shall confine it: it was asked for, or nothing was."""
    profile = _asked(security)
    return not security.privileged and (profile is None or profile.profile_type is ProfileType.RUNTIME_DEFAULT)


def apparmor(security: LinuxContainerSecurityContext, facts: NodeFacts) -> str:
    """process.apparmorProfile, "" for none. Asking for what cannot be enforced is an error, because the container would
    run without it. Privileged ones have no default, but a profile that they name, as with containerd."""
    profile = _asked(security)
    if profile is not None:
        check_apparmor(profile)
    if not facts.apparmor:
        if profile is not None and profile.profile_type is not ProfileType.UNCONFINED:
            raise errors.Invalid(
                f"linux.security_context.apparmor asks for {profile.profile_type.name} {profile.localhost_ref!r}",
                hint="AppArmor is not enabled on this node: enable it, or ask for Unconfined",
            )
        return ""
    if profile is not None and profile.profile_type is ProfileType.UNCONFINED:
        return "unconfined"
    if profile is not None and profile.profile_type is ProfileType.LOCALHOST:
        return _loaded(_name(profile), facts)
    if security.privileged:
        return ""
    if profile is not None and not facts.apparmor_default:
        raise errors.Unsupported(
            "linux.security_context.apparmor asks for RUNTIME_DEFAULT, and no default profile is loaded",
            hint=facts.apparmor_problem,
        )
    return facts.apparmor_default


def check_apparmor(profile: SecurityProfile) -> None:
    name = _name(profile)
    localhost = profile.profile_type is ProfileType.LOCALHOST
    if localhost and not _PROFILE_NAME.match(name):
        raise errors.Invalid(
            f"linux.security_context.apparmor has localhost_ref {profile.localhost_ref[:200]!r}",
            hint="the name of a loaded profile is needed",
        )
    if not localhost and profile.localhost_ref:
        raise errors.Invalid(
            f"linux.security_context.apparmor has localhost_ref {profile.localhost_ref[:200]!r} "
            f"with profile_type {profile.profile_type.name}",
            hint="localhost_ref goes with profile_type Localhost",
        )


def _loaded(name: str, facts: NodeFacts) -> str:
    if name not in facts.apparmor_profiles:
        raise errors.Invalid(
            f"the AppArmor profile {name!r} is not loaded",
            hint=facts.apparmor_problem or "load it on this node with apparmor_parser",
        )
    return name


def _asked(security: LinuxContainerSecurityContext) -> SecurityProfile | None:
    """By the field, or by the deprecated string, which the field overrules."""
    return security.apparmor or _deprecated(security.apparmor_profile)


def _name(profile: SecurityProfile) -> str:
    return profile.localhost_ref.removeprefix(_LOCALHOST)


def _deprecated(text: str) -> SecurityProfile | None:
    """apparmor_profile, the deprecated string."""
    if not text:
        return None
    if text == "runtime/default":
        return SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    if text == "unconfined":
        return SecurityProfile(ProfileType.UNCONFINED)
    if text.startswith(_LOCALHOST):
        return SecurityProfile(ProfileType.LOCALHOST, text.removeprefix(_LOCALHOST))
    raise errors.Invalid(
        f"linux.security_context.apparmor_profile is {text[:200]!r}",
        hint="runtime/default, unconfined or localhost/<profile> is needed",
    )


def _absolute(paths: list[str], field: str) -> list[str]:
    for path in paths:
        if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise errors.Invalid(
                f"linux.security_context.{field} has {path[:200]!r}", hint="absolute paths without .. are needed"
            )
    return list(paths)
