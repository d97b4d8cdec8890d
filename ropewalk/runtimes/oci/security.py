"""Hidden and read-only paths, AppArmor and SELinux (contract 6.9, 6.8)."""

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


def apparmor(security: LinuxContainerSecurityContext, facts: NodeFacts) -> str:
    """process.apparmorProfile, "" for none. Where the kernel has no AppArmor, asking for a profile is an error: the
    container would run without what was asked for."""
    profile = security.apparmor or _deprecated(security.apparmor_profile)
    if profile is not None:
        check_apparmor(profile)
    if security.privileged:
        return ""
    if not facts.apparmor:
        if profile is not None and profile.profile_type is not ProfileType.UNCONFINED:
            raise errors.Invalid(
                f"linux.security_context.apparmor asks for {profile.profile_type.name} {profile.localhost_ref!r}",
                hint="AppArmor is not enabled on this node: enable it, or ask for Unconfined",
            )
        return ""
    return _enforced(profile, facts)


def selinux_label(security: LinuxContainerSecurityContext, facts: NodeFacts) -> str:
    """process.selinuxLabel. Options are ignored where the kernel has no SELinux, as Kubernetes wants."""
    options = security.selinux_options
    if not facts.selinux or security.privileged or options is None:
        return ""
    raise errors.Unsupported(
        f"linux.security_context.selinux_options asks for {options.user}:{options.role}:{options.type}:{options.level}",
        hint="SELinux labels are not built yet",
    )


def check_apparmor(profile: SecurityProfile) -> None:
    name = profile.localhost_ref.removeprefix(_LOCALHOST)
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


def _enforced(profile: SecurityProfile | None, facts: NodeFacts) -> str:
    if profile is None:
        return facts.apparmor_default
    if profile.profile_type is ProfileType.UNCONFINED:
        return "unconfined"
    if profile.profile_type is ProfileType.RUNTIME_DEFAULT:
        if not facts.apparmor_default:
            raise errors.Unsupported(
                "linux.security_context.apparmor asks for RUNTIME_DEFAULT, and no default profile is loaded",
                hint="load a profile and name it with Localhost",
            )
        return facts.apparmor_default
    name = profile.localhost_ref.removeprefix(_LOCALHOST)
    if name not in facts.apparmor_profiles:
        raise errors.Invalid(
            f"the AppArmor profile {name!r} is not loaded", hint="load it on this node with apparmor_parser"
        )
    return name


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
