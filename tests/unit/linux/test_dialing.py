"""Connections to "localhost" of a namespace: both families are tried, and what answers nothing is said."""

from __future__ import annotations

import socket

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import dialing


@pytest.mark.parametrize(("family", "address"), dialing.LOOPBACKS)
async def test_whoever_listens_is_reached(family: socket.AddressFamily, address: str) -> None:
    with (
        socket.create_server((address, 0), family=family) as server,
        await dialing.connect("", server.getsockname()[1]) as made,
    ):
        server.accept()[0].close()
        assert made.getpeername()[0] == address
        assert not made.getblocking()


async def test_nobody_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(RopewalkError, match=f"nothing listens on port {port}") as caught:
        await dialing.connect("", port)
    assert caught.value.kind is Kind.UNAVAILABLE
