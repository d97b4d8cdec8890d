"""nftables: commands in nft(8)'s language through libnftables, and what the kernel itself lists by netlink.

libnftables is a shared library of the `nftables` package (libnftables(3)); one change costs 0.1-0.3 ms through it and
2 ms through the program, which is used where the library is missing. Listing chains is done by netlink: libnftables
would first read every set and rule of the node.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from msgspec import Struct

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import netlink, spawn

LIBRARY = "libnftables.so.1"
PROGRAM = "nft"
_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON, nftables/libnftables.h
_TIMEOUT = 10.0

FORWARD = 2  # NF_INET_FORWARD, include/uapi/linux/netfilter.h
INET, IPV4, IPV6 = 1, 2, 10  # NFPROTO_*
_DROP = 0  # NF_DROP
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GET_TABLE, _GET_CHAIN, _GET_RULE = _SUBSYSTEM | 1, _SUBSYSTEM | 4, _SUBSYSTEM | 7  # NFT_MSG_*
_GENERIC = struct.Struct(">BBH")  # struct nfgenmsg: family, version, resource
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY = 1, 3, 4, 5  # NFTA_CHAIN_*
_HOOK_NUMBER = 1  # NFTA_HOOK_HOOKNUM
_TABLE_NAME = _RULE_TABLE = 1  # NFTA_TABLE_NAME, NFTA_RULE_TABLE


class NftError(RopewalkError):
    """nftables refused a command: its own words."""


class Chain(Struct, frozen=True):
    """A base chain: `family` NFPROTO_*, `hook` NF_INET_*; `drops`: its policy is to drop."""

    family: int
    table: str
    name: str
    hook: int
    drops: bool


class Nft:
    """Runs nft commands, in one transaction per call. Cheap to construct: the library is loaded at the first use."""

    def __init__(self, *, library: str = LIBRARY, program: str = PROGRAM) -> None:
        self._name = library
        self._program = program
        self._library: ctypes.CDLL | None = None
        self._context: int | None = None
        self._tried = False

    async def run(self, commands: str, *, json: bool = False) -> str:
        """What the commands print. All of them take effect or none; NftError if one is refused, UNAVAILABLE if this
        node has neither library nor program."""
        library = self._load()
        if library is None:
            return await self._run_program(commands, json=json)
        library.nft_ctx_output_set_flags(self._context, _JSON if json else 0)
        code = library.nft_run_cmd_from_buffer(self._context, commands.encode())
        # Reading a buffer empties it, so both are read each time.
        said, printed = (
            library.nft_ctx_get_error_buffer(self._context),
            library.nft_ctx_get_output_buffer(self._context),
        )
        if code != 0:
            raise NftError(f"nftables: {said.decode(errors='replace').strip()}")
        return str(printed.decode(errors="replace"))

    def close(self) -> None:
        if self._library is not None:
            self._library.nft_ctx_free(self._context)
        self._library = self._context = None
        self._tried = False

    def _load(self) -> ctypes.CDLL | None:
        if not self._tried:
            self._tried = True
            try:
                self._library = _bind(ctypes.CDLL(self._name))
            except OSError:
                return None
            self._context = self._library.nft_ctx_new(0)
            self._library.nft_ctx_buffer_output(self._context)
            self._library.nft_ctx_buffer_error(self._context)
        return self._library

    async def _run_program(self, commands: str, *, json: bool) -> str:
        arguments = [self._program, *(["-j"] if json else []), "-f", "-"]
        try:
            done = await spawn.run(arguments, input=commands.encode(), timeout=_TIMEOUT)
        except (OSError, RopewalkError) as error:
            raise NftError(
                f"neither {self._name} nor {self._program} can be used: {error}",
                hint="install nftables (Debian: apt install nftables)",
                kind=Kind.UNAVAILABLE,
            ) from error
        if done.code != 0:
            raise NftError(f"nftables: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode(errors="replace")


def _bind(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the functions used (libnftables(3)): a context is a pointer, buffers are NUL-terminated."""
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


def has_table(sock: netlink.Socket, name: str) -> bool:
    """Whether there is a table `inet <name>`. The socket is of netlink.NETFILTER."""
    request = netlink.message(_GET_TABLE, _GENERIC.pack(INET, 0, 0) + netlink.text(_TABLE_NAME, name))
    try:
        return bool(sock.get(request))
    except netlink.NetlinkError as error:
        if error.errno != errno.ENOENT:
            raise
        return False


def base_chains(sock: netlink.Socket) -> list[Chain]:
    """Every chain of every table that hangs on a hook. The socket is of netlink.NETFILTER."""
    request = netlink.message(_GET_CHAIN, _GENERIC.pack(0, 0, 0))
    return [chain for _, body in sock.dump(request) if (chain := parse_chain(body)) is not None]


def parse_chain(body: bytes) -> Chain | None:
    """A NFT_MSG_NEWCHAIN; None for a chain without a hook. Numbers in it are big-endian."""
    parts = netlink.attributes(body, _GENERIC.size)
    hook = netlink.attributes(parts.get(_CHAIN_HOOK, b"")).get(_HOOK_NUMBER)
    if hook is None:
        return None
    return Chain(
        family=body[0],
        table=parts[_CHAIN_TABLE].rstrip(b"\0").decode(),
        name=parts[_CHAIN_NAME].rstrip(b"\0").decode(),
        hook=int.from_bytes(hook, "big"),
        drops=int.from_bytes(parts.get(_CHAIN_POLICY, b"\0\0\0\1"), "big") == _DROP,
    )


def rules_name(sock: netlink.Socket, chain: Chain, interface: str) -> bool:
    """Whether a rule in the chain's table carries the name of an interface, in whichever of the kernel's encodings
    (a compared value, or an iptables match inside the rule)."""
    table = netlink.text(_RULE_TABLE, chain.table)
    request = netlink.message(_GET_RULE, _GENERIC.pack(chain.family, 0, 0) + table)
    return any(interface.encode() in body for _, body in sock.dump(request))
