"""What the kernel says of its chains, and what happens where nftables is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ropewalk.errors import Kind
from ropewalk.linux import netlink, nft


def chain(*, hook: int | None, policy: int | None = None) -> bytes:
    """An NFT_MSG_NEWCHAIN body."""
    body = bytes((nft.INET, 0, 0, 0)) + netlink.text(1, "filter") + netlink.text(3, "FORWARD")
    if hook is not None:
        number = netlink.attribute(1, hook.to_bytes(4, "big"))
        body += netlink.nested(4, number, netlink.attribute(2, bytes(4)))
    if policy is not None:
        body += netlink.attribute(5, policy.to_bytes(4, "big"))
    return body


@pytest.mark.parametrize(("policy", "drops"), [(0, True), (1, False), (None, False)])
def test_a_base_chain(policy: int | None, drops: bool) -> None:
    found = nft.parse_chain(chain(hook=nft.FORWARD, policy=policy))
    assert found == nft.Chain(family=nft.INET, table="filter", name="FORWARD", hook=nft.FORWARD, drops=drops)


def test_a_chain_that_others_jump_to_is_no_base_chain() -> None:
    assert nft.parse_chain(chain(hook=None)) is None


async def test_without_library_and_program_it_says_what_to_install() -> None:
    with pytest.raises(nft.NftError, match="install nftables") as caught:
        await nft.Nft(library="libnothing.so.0", program="no-such-program").run("list tables")
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_the_program_is_the_fallback(tmp_path: Path) -> None:
    program = f"{tmp_path}/nft"
    with open(program, "w") as file:
        file.write('#!/bin/sh\necho "arguments: $*"\ncat\n')

    os.chmod(program, 0o755)
    runner = nft.Nft(library="libnothing.so.0", program=program)
    assert await runner.run("list tables\n", json=True) == "arguments: -j -f -\nlist tables\n"


async def test_what_the_program_says_on_failure(tmp_path: Path) -> None:

    program = f"{tmp_path}/nft"
    with open(program, "w") as file:
        file.write("#!/bin/sh\necho no such table >&2\nexit 1\n")
    os.chmod(program, 0o755)
    with pytest.raises(nft.NftError, match="no such table"):
        await nft.Nft(library="libnothing.so.0", program=program).run("delete table inet x")
