"""What a build and an installation stand on."""

from __future__ import annotations

import configparser
from pathlib import Path

import hatch_build

ROOT = Path(__file__).parents[2]


def test_systemd_never_gives_up_starting_it() -> None:
    """By itself it does after five starts in ten seconds (systemd-system.conf(5), DefaultStartLimitBurst=)."""
    unit = configparser.RawConfigParser(strict=False)
    unit.read(ROOT / "packaging/ropewalk.service")
    assert unit["Service"]["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"


def test_a_builders_own_fortification_is_not_contradicted() -> None:
    """A macro that is defined twice is a warning, and warnings are errors here."""
    assert "-D_FORTIFY_SOURCE=2" in hatch_build.hardened(["-O3"])
    for own in ("-D_FORTIFY_SOURCE=3", "-Wp,-U_FORTIFY_SOURCE,-D_FORTIFY_SOURCE=3"):
        assert not [option for option in hatch_build.hardened(["-O3", own]) if "_FORTIFY_SOURCE" in option]
