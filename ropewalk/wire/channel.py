"""The clients' channel to an endpoint on a unix socket, by grpcio."""

from __future__ import annotations

import urllib.parse

import grpc

LIMIT = 16 << 20  # bytes per message: the server's (wire/grpc.py)


def target(address: str) -> str:
    """gRPC's name for a unix socket given as a path or as unix://path."""
    path = address.removeprefix("unix:")
    if path.startswith("//"):
        path = path[2:]
    return "unix:" + urllib.parse.quote(path)


def channel(address: str) -> grpc.aio.Channel:
    """A channel to the endpoint at `address` (a path, or unix://path)."""
    options = (
        ("grpc.max_receive_message_length", LIMIT),
        ("grpc.max_send_message_length", LIMIT),
        ("grpc.default_authority", "localhost"),
        ("grpc.enable_retries", 0),
    )
    return grpc.aio.insecure_channel(target(address), options=options)
