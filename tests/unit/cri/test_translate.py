"""What structure alone cannot translate."""

from __future__ import annotations

import signal

import pytest

from ropewalk.cri import translate
from ropewalk.wire.pb import cri_pb2 as pb


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (int(signal.SIGTERM), "SIGNAL_SIGTERM"),
        (int(signal.SIGKILL), "SIGNAL_SIGKILL"),
        (int(signal.SIGWINCH), "SIGNAL_SIGWINCH"),
        (34, "SIGNAL_SIGRTMIN"),
        (37, "SIGNAL_SIGRTMINPLUS3"),
        (49, "SIGNAL_SIGRTMINPLUS15"),
        (50, "SIGNAL_SIGRTMAXMINUS14"),
        (64, "SIGNAL_SIGRTMAX"),
    ],
)
def test_the_kernels_signals_have_names(number: int, name: str) -> None:
    assert pb.Signal.Name(translate.stop_signal(number)) == name


@pytest.mark.parametrize("number", [0, 32, 99])
def test_other_numbers_have_none(number: int) -> None:
    assert translate.stop_signal(number) == 0


def test_every_signal_of_the_cri_is_reached_or_an_alias() -> None:
    reached = {translate.stop_signal(number) for number in range(1, 65)}
    missing = {name for name, number in pb.Signal.items() if number and number not in reached}
    assert missing == {"SIGNAL_SIGCLD", "SIGNAL_SIGIOT", "SIGNAL_SIGPOLL"}
