"""Who the process runs as: USER of the image, run_as_* of the request, looked up in the image's passwd and group.

The files were written by the image's author, so they are read with bounds, and what looks like a number is only
ever a number: an id out of range that is looked up as a name gives whatever uid the image likes
(CVE-2026-46680, CVE-2024-40635, CVE-2016-3697). Nothing here answers uid 0 unless 0, "root", or nothing was asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ropewalk import errors
from ropewalk.runtimes.oci.facts import ResolvedUser
from ropewalk.spec.container import LinuxContainerSecurityContext
from ropewalk.spec.image import ImageConfig
from ropewalk.spec.pod import SupplementalGroupsPolicy

MAX_ID = 2**31 - 1  # Kubernetes' and Docker's bound; the kernel's ids are 32 bits, and 2**32-1 means "none"
MAX_FILE = 1 << 20  # bytes read of passwd and of group
MAX_LINE = 64 << 10  # a group of thousands is one line
MAX_GROUPS = 65536  # NGROUPS_MAX, include/uapi/linux/limits.h

_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,9})\Z", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]{0,255}\$?\Z", re.ASCII)
_HOME = re.compile(r"/[^\x00-\x1f\x7f:]{0,4095}\Z")


class Account(NamedTuple):
    """A line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str


class Group(NamedTuple):
    """A line of group(5)."""

    name: str
    gid: int
    members: frozenset[str]


def resolve(security: LinuxContainerSecurityContext, image: ImageConfig, passwd: bytes, group: bytes) -> ResolvedUser:
    """Uid, primary gid, groups and home directory; Invalid names the field that cannot be honoured."""
    accounts, groups = list(parse_passwd(passwd)), list(parse_group(group))
    account, image_gid = _account(security, image, accounts, groups)
    gid = account.gid if image_gid is None else image_gid
    if security.run_as_group is not None:
        gid = checked_id(security.run_as_group, "linux.security_context.run_as_group")
    extra = {checked_id(id, "linux.security_context.supplemental_groups") for id in security.supplemental_groups}
    if security.supplemental_groups_policy is SupplementalGroupsPolicy.MERGE:
        extra |= {entry.gid for entry in groups if account.name and account.name in entry.members}
    if len(extra) >= MAX_GROUPS:
        raise errors.Invalid(f"the user has {len(extra)} groups, the kernel allows {MAX_GROUPS}")
    return ResolvedUser(uid=account.uid, gid=gid, supplemental_groups=[gid, *sorted(extra - {gid})], home=account.home)


def check(security: LinuxContainerSecurityContext) -> None:
    """The rules that need no image: exclusive fields, ranges."""
    if security.run_as_user is not None and security.run_as_username:
        raise errors.Invalid(
            f"both run_as_user {security.run_as_user} and run_as_username {security.run_as_username!r} are set",
            hint="set one of them",
        )
    if security.run_as_group is not None and security.run_as_user is None and not security.run_as_username:
        raise errors.Invalid(
            f"run_as_group {security.run_as_group} is set without run_as_user or run_as_username",
            hint="set run_as_user too",
        )
    for field, value in (("run_as_user", security.run_as_user), ("run_as_group", security.run_as_group)):
        if value is not None:
            checked_id(value, f"linux.security_context.{field}")
    for id in security.supplemental_groups:
        checked_id(id, "linux.security_context.supplemental_groups")


def checked_id(value: int, field: str) -> int:
    if not 0 <= value <= MAX_ID:
        raise errors.Invalid(f"{field} is {value}", hint=f"ids are 0 to {MAX_ID}")
    return value


def parse_passwd(data: bytes) -> Iterator[Account]:
    """The well-formed lines of passwd(5), in order; others are skipped, as glibc does."""
    for fields in _lines(data):
        if len(fields) < 6 or not _NAME.match(fields[0]):
            continue
        uid, gid = parse_id(fields[2]), parse_id(fields[3])
        if uid is not None and gid is not None:
            yield Account(fields[0], uid, gid, fields[5] if _HOME.match(fields[5]) else "/")


def parse_group(data: bytes) -> Iterator[Group]:
    """The well-formed lines of group(5), in order."""
    for fields in _lines(data):
        gid = parse_id(fields[2]) if len(fields) >= 3 else None
        if gid is not None and _NAME.match(fields[0]):
            members = fields[3].split(",") if len(fields) > 3 else []
            yield Group(fields[0], gid, frozenset(member.strip() for member in members if member.strip()))


def parse_id(text: str) -> int | None:
    """A decimal id in range, written the one plain way: no sign, no leading zero, ASCII digits only."""
    if not _NUMBER.match(text):
        return None
    value = int(text)
    return value if value <= MAX_ID else None


def _account(
    security: LinuxContainerSecurityContext, image: ImageConfig, accounts: list[Account], groups: list[Group]
) -> tuple[Account, int | None]:
    """Who, and the group that the image's USER names, if it is used and names one."""
    check(security)
    if security.run_as_user is not None:
        return _by_uid(security.run_as_user, accounts), None
    if security.run_as_username:
        return _user(security.run_as_username, "linux.security_context.run_as_username", accounts), None
    if not image.user:
        return _by_uid(0, accounts), None
    name, colon, group = image.user.partition(":")
    account = _user(name, "the image's USER", accounts)
    return account, _group(group, groups) if colon else None


def _user(text: str, field: str, accounts: list[Account]) -> Account:
    uid = parse_id(text)
    if uid is not None:
        return _by_uid(uid, accounts)
    if not _NAME.match(text):
        raise errors.Invalid(
            f"{field} is {text[:80]!r}, neither a user id nor a user name",
            hint=f"ids are 0 to {MAX_ID} in plain decimal; names begin with a letter or _",
        )
    for account in accounts:
        if account.name == text:
            return account
    raise errors.Invalid(
        f"{field} is {text!r}, and the image's /etc/passwd has no such user", hint="use a user id, or add the user"
    )


def _by_uid(uid: int, accounts: list[Account]) -> Account:
    """The first account with this uid; a uid without one has gid 0, no groups, and home "/"."""
    return next((account for account in accounts if account.uid == uid), Account("", uid, 0, "/"))


def _group(text: str, groups: list[Group]) -> int:
    gid = parse_id(text)
    if gid is not None:
        return gid
    if not _NAME.match(text):
        raise errors.Invalid(
            f"the group of the image's USER is {text[:80]!r}, neither a group id nor a group name",
            hint=f"ids are 0 to {MAX_ID} in plain decimal",
        )
    for group in groups:
        if group.name == text:
            return group.gid
    raise errors.Invalid(f"the image's USER names group {text!r}, and its /etc/group has no such group")


def _lines(data: bytes) -> Iterator[list[str]]:
    """Colon-separated fields of each line within the bounds. A line cut off at the end of the bound is dropped."""
    lines = data[:MAX_FILE].split(b"\n")
    if len(data) > MAX_FILE:
        lines.pop()
    for line in lines:
        if line and len(line) <= MAX_LINE and not line.startswith(b"#"):
            yield line.decode("utf-8", "replace").split(":")
