"""What a new namespace is told before it has an interface."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ropewalk.network import netns


def test_router_advertisements_are_not_taken(tmp_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns, "_SYSCTLS", str(tmp_path))
    values = netns.sysctls(ipv6=True)
    assert values["net.ipv6.conf.default.accept_ra"] == values["net.ipv6.conf.all.accept_ra"] == "0"
    assert not any("disable_ipv6" in name for name in values)


def test_without_ipv6_it_is_off(tmp_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns, "_SYSCTLS", str(tmp_path))
    assert set(netns.sysctls(ipv6=False)) == {"net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.default.disable_ipv6"}


def test_a_kernel_without_ipv6_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns, "_SYSCTLS", "/nonexistent")
    assert netns.sysctls(ipv6=True) == netns.sysctls(ipv6=False) == {}


async def test_names_are_the_instances_own() -> None:
    pool = netns.Namespaces("/run/netns", "ropewalk-", ready=0)
    path = pool.choose()
    assert path.startswith("/run/netns/ropewalk-")
    assert len(path.rpartition("-")[2]) == 12
    assert pool.choose() != path


async def test_another_number_is_kept_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those too many go at once; those missing are made when it is quiet."""
    made: list[str] = []
    removed: list[str] = []
    monkeypatch.setattr(netns, "_QUIET", 0.0)
    pool = netns.Namespaces(str(tmp_path), "ropewalk-", ready=3)
    monkeypatch.setattr(pool, "_make", made.append)
    monkeypatch.setattr(pool, "remove", removed.append)
    filling = asyncio.create_task(pool.fill())
    for wanted, total in ((3, 3), (1, 3), (2, 4)):
        pool.keep(wanted)
        async with asyncio.timeout(20):
            while len(made) < total:
                await asyncio.sleep(0)
        assert len(made) - len(removed) == wanted
    filling.cancel()


async def test_namespaces_of_other_instances_of_the_same_kind(tmp_path: Path) -> None:
    pool = netns.Namespaces(str(tmp_path / "pins"), "ropewalk-beef-cni-", ready=0)
    assert pool.of_others() == []
    (tmp_path / "pins").mkdir()
    names = ["ropewalk-beef-cni-", "ropewalk-cni-", "ropewalk-0a1b-cni-", "ropewalk-0a1b-", "ropewalk-", "cni-"]
    for name in names:
        (tmp_path / "pins" / f"{name}0123456789ab").touch()
    assert pool.of_others() == ["ropewalk-0a1b-cni-0123456789ab", "ropewalk-cni-0123456789ab"]
