"""Who the process runs as: the table of peers T13, and properties over hostile files and names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk import errors
from ropewalk.runtimes.oci import users
from ropewalk.runtimes.oci.facts import ResolvedUser
from ropewalk.spec import container, image, pod
from tests.unit.runtimes.oci import samples

MERGE, STRICT = pod.SupplementalGroupsPolicy.MERGE, pod.SupplementalGroupsPolicy.STRICT


def resolve(
    user: str = "", passwd: bytes = samples.PASSWD, group: bytes = samples.GROUP, **security: object
) -> ResolvedUser:
    context = container.LinuxContainerSecurityContext(**security)  # type: ignore[arg-type]
    return users.resolve(context, image.ImageConfig(user=user), passwd, group)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0, [0, 4], "/root")),
        ("0", (0, 0, [0, 4], "/root")),
        ("root", (0, 0, [0, 4], "/root")),
        ("1000", (1000, 1000, [1000, 4, 50000], "/home/app")),
        ("app", (1000, 1000, [1000, 4, 50000], "/home/app")),
        ("app:team", (1000, 50000, [50000, 4], "/home/app")),
        ("app:4", (1000, 4, [4, 50000], "/home/app")),
        ("1000:0", (1000, 0, [0, 4, 50000], "/home/app")),
        ("4242", (4242, 0, [0], "/")),
        ("4242:17", (4242, 17, [17], "/")),
        ("2147483647", (2147483647, 0, [0], "/")),
    ],
)
def test_user_of_the_image(user: str, expected: tuple[int, int, list[int], str]) -> None:
    assert resolve(user) == ResolvedUser(*expected)


@pytest.mark.parametrize(
    "user",
    [
        "2147483648", "4294967296", "4294967295", "-1", "+1", "0x0", "00", "01000", "1000 ", " 1000", "4294967296:0",
        "1000:4294967296", "1000:-1", "١٠٠٠", "１０００", "²", "1e3", "1_000", "1.0", ":0", ":", "app:", "1000:",
        "app:nosuch", "root\n", "app:team:x", "a" * 300, "\x00", "99999999999999999999", "1000user",
    ],
)  # fmt: skip
def test_odd_users_are_refused_and_never_root(user: str) -> None:
    # An image that hopes to be asked for the name gets nothing: the files have it, with uid 0.
    hostile = f"{user.split(':')[0]}:x:0:0::/root:\n".encode("utf-8", "replace")
    with pytest.raises(errors.Invalid):
        resolve(user, hostile + samples.PASSWD, samples.GROUP)


def test_names_that_are_numbers_are_never_looked_up() -> None:
    passwd = b"1000:x:0:0::/root:\n4294967296:x:0:0::/root:\n"
    assert resolve("1000", passwd).uid == 1000
    with pytest.raises(errors.Invalid):
        resolve("4294967296", passwd)


def test_request_goes_before_the_image() -> None:
    assert resolve("app:team", run_as_user=4242) == ResolvedUser(4242, 0, [0], "/")
    assert resolve("app", run_as_user=1000, run_as_group=7) == ResolvedUser(1000, 7, [7, 4, 50000], "/home/app")
    assert resolve("root", run_as_username="nobody") == ResolvedUser(65534, 65534, [65534], "/nonexistent")
    assert resolve("app", run_as_user=0).uid == 0


def test_groups_merge_and_strict() -> None:
    merged = resolve(run_as_user=1000, supplemental_groups=[1234, 1000], supplemental_groups_policy=MERGE)
    assert merged.supplemental_groups == [1000, 4, 1234, 50000]
    strict = resolve(run_as_user=1000, supplemental_groups=[1234], supplemental_groups_policy=STRICT)
    assert strict.supplemental_groups == [1000, 1234]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"run_as_group": 5}, "run_as_group 5"),
        ({"run_as_user": 1, "run_as_username": "app"}, "run_as_username 'app'"),
        ({"run_as_user": -1}, "run_as_user is -1"),
        ({"run_as_user": 2**31}, "run_as_user is 2147483648"),
        ({"run_as_user": 2**32}, "run_as_user is 4294967296"),
        ({"run_as_user": 1, "run_as_group": 2**32}, "run_as_group is 4294967296"),
        ({"supplemental_groups": [-5]}, "supplemental_groups is -5"),
        ({"run_as_username": "nosuch"}, "'nosuch'"),
    ],
)
def test_bad_requests_name_field_and_value(fields: dict[str, object], named: str) -> None:
    with pytest.raises(errors.Invalid, match=named):
        resolve(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("home", ["/root\\nx", "/a\tb", "relative", "", "/x\x7f", "/ro\rot", "/" + "a" * 5000])
def test_odd_homes_become_the_root(home: str) -> None:
    expected = home if home == "/root\\nx" else "/"  # a backslash and an n are two ordinary characters
    assert resolve("1", f"a:x:1:1::{home}:/bin/sh\n".encode()).home == expected


def test_files_are_read_with_bounds() -> None:
    padding = b"#" * (users.MAX_FILE - 10) + b"\n"
    assert resolve("1", padding + b"late:x:1:77::/:\n").gid == 0
    cut = b"a:x:1:5::/:\n" + b"#" * (users.MAX_FILE - 12 - 9) + b"\nb:x:2:66"
    assert resolve("2", cut + b"6::/:\n").gid == 0
    long = b"x" * users.MAX_LINE + b":x:3:9::/:\n"
    assert resolve("3", long).gid == 0


def test_damaged_lines_are_skipped() -> None:
    passwd = (
        b"\n:::::\nx\na:x:1\nb:x:abc:1::/:\nc:x:-1:1::/:\nd:x:1:4294967296::/:\n\xff:x:1:9::/:\ne:x:1:5::/home/e:\n"
    )
    assert resolve("1", passwd).gid == 5
    assert resolve("app", samples.PASSWD, b"team:x:zz:app\nok:x:9:app\nno\n").supplemental_groups == [1000, 9]


@given(st.text(max_size=30), st.binary(max_size=200), st.binary(max_size=200))
def test_any_user_string_is_refused_or_means_what_it_says(user: str, passwd: bytes, group: bytes) -> None:
    try:
        found = resolve(user, passwd, group)
    except errors.Invalid:
        return
    name = user.partition(":")[0]
    assert 0 <= found.uid <= users.MAX_ID
    assert 0 <= found.gid <= users.MAX_ID
    assert found.supplemental_groups[0] == found.gid
    assert found.home.startswith("/")
    assert not set(found.home) & {chr(code) for code in range(32)}
    if found.uid == 0:
        named_zero = any(account.name == name and account.uid == 0 for account in users.parse_passwd(passwd))
        assert name in ("", "0") or named_zero
    if name.isdigit():
        assert str(found.uid) == name


@given(st.integers(min_value=-(2**65), max_value=2**65), st.integers(min_value=-(2**65), max_value=2**65))
def test_any_number_is_kept_or_refused(uid: int, gid: int) -> None:
    try:
        found = resolve("app", run_as_user=uid, run_as_group=gid)
    except errors.Invalid:
        assert not (0 <= uid <= users.MAX_ID and 0 <= gid <= users.MAX_ID)
        return
    assert (found.uid, found.gid) == (uid, gid)


@given(st.lists(st.integers(min_value=0, max_value=users.MAX_ID), max_size=20), st.sampled_from([MERGE, STRICT]))
def test_requested_groups_are_all_there_once(asked: list[int], policy: pod.SupplementalGroupsPolicy) -> None:
    found = resolve("app", supplemental_groups=asked, supplemental_groups_policy=policy).supplemental_groups
    assert len(found) == len(set(found))
    assert set(asked) <= set(found)
    if policy is STRICT:
        assert set(found) == {1000, *asked}
