"""That daemon and ropewalk-monitor are of one build, and what is said where they are not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.runtimes.monitors import own

SOURCE = Path(__file__).parents[4] / "csrc/monitor.c"
ID = "c" * 64
SAYS = f"{own.NAME} 0.1.0, protocol {own.PROTOCOL}"


def test_both_sides_have_one_protocol() -> None:
    assert re.findall(r"PROTOCOL = (\d+),", SOURCE.read_text()) == [str(own.PROTOCOL)]


@pytest.mark.parametrize("said", [f"{own.NAME} 0.1.0", f"{SAYS}1", "", "conmon version 2.1.12"])
def test_another_build_is_told_with_what_to_do(said: str) -> None:
    own.check("/m", SAYS)
    with pytest.raises(RopewalkError, match=f"/m is {re.escape(repr(said))}") as caught:
        own.check("/m", said)
    assert (caught.value.kind, "./dev setup" in caught.value.hint) == (Kind.UNSUPPORTED, True)


def test_one_that_answers_with_its_name_did_not_know_its_arguments() -> None:
    with pytest.raises(RopewalkError, match=r"another build .*does not know what it was told") as caught:
        own.parse_answer(b"", f"{own.NAME} 0.1.0\n".encode(), ID)
    assert (caught.value.kind, ID[:13] in caught.value.message) == (Kind.UNSUPPORTED, True)
    with pytest.raises(RopewalkError, match="its monitor: ctl: No space left") as caught:
        own.parse_answer(b"", b"ctl: No space left on device\n", ID)
    assert caught.value.hint == ""
