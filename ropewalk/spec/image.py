"""Images as callers name them, and what an image's config says (OCI image-spec, config.md)."""

from __future__ import annotations

from msgspec import Struct, field


class ImageSpec(Struct, frozen=True, omit_defaults=True):
    """runtime.v1.ImageSpec."""

    image: str = ""
    annotations: dict[str, str] = field(default_factory=dict)
    user_specified_image: str = ""
    runtime_handler: str = ""
    image_ref: str = ""


class AuthConfig(Struct, frozen=True, omit_defaults=True):
    """runtime.v1.AuthConfig: credentials of one pull; never stored, never logged."""

    username: str = ""
    password: str = ""
    auth: str = ""
    server_address: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return f"AuthConfig(username={self.username!r}, …)"


class ImageConfig(Struct, frozen=True, omit_defaults=True, rename="pascal"):
    """The `config` object of an OCI image config. Every value was written by the image's author: untrusted."""

    user: str = ""
    env: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    working_dir: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    volumes: list[str] = field(default_factory=list)
    exposed_ports: list[str] = field(default_factory=list)
