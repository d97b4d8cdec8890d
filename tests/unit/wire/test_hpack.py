"""HPACK against the examples of RFC 7541, and against what no encoder sends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.wire import hpack

FIRST = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
SECOND = [*FIRST, (b"cache-control", b"no-cache")]
THIRD = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":path", b"/index.html"),
    (b":authority", b"www.example.com"),
    (b"custom-key", b"custom-value"),
]
PLAIN = (  # C.3
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
)
HUFFMAN = (  # C.4
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
)
EVICTING = (  # C.6, after a size update: a table of 256 octets
    "3fe101488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    "4883640effc1c0bf",
)
ANSWER = [
    (b":status", b"302"),
    (b"cache-control", b"private"),
    (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"),
    (b"location", b"https://www.example.com"),
]


@pytest.mark.parametrize("blocks", [PLAIN, HUFFMAN])
def test_the_examples_of_requests(blocks: tuple[str, ...]) -> None:
    decoder = hpack.Decoder()
    assert [decoder.decode(bytes.fromhex(block)) for block in blocks] == [FIRST, SECOND, THIRD]


def test_the_examples_with_a_small_table() -> None:
    decoder = hpack.Decoder()
    first, second = (decoder.decode(bytes.fromhex(block)) for block in EVICTING)
    assert first == ANSWER
    assert second == [(b":status", b"307"), *ANSWER[1:]]
    with pytest.raises(hpack.HpackError):  # ":status: 302" had to go
        decoder.decode(bytes((0x80 | 62 + 4,)))


@pytest.mark.parametrize("block", HUFFMAN[:1] + EVICTING[:1])
def test_a_block_that_is_cut_is_refused_or_has_less(block: str) -> None:
    whole = bytes.fromhex(block)
    for cut in range(len(whole)):
        try:
            headers = hpack.Decoder().decode(whole[:cut])
        except hpack.HpackError:
            continue
        assert headers in [(FIRST if block == HUFFMAN[0] else ANSWER)[:count] for count in range(4)]


@pytest.mark.parametrize(
    "block",
    [
        "80",  # index 0
        "be",  # the first of an empty table
        "ffffffffffff7f",  # a number without end
        "3fe21f",  # a table of 4097 octets
        "8220",  # a table size after a header
        "00810083f8ffff",  # a code that is too long to be padding
        "008100811a",  # padding of zeros
        "00017883",  # a value that is not there
        "000178843fffffff",  # more padding than a character's
        "00017884ffffffff",  # the end within a string
    ],
)
def test_what_cannot_be_read(block: str) -> None:
    with pytest.raises(hpack.HpackError):
        hpack.Decoder().decode(bytes.fromhex(block))


@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300))))
def test_what_is_encoded_can_be_decoded(headers: list[hpack.Header]) -> None:
    assert hpack.Decoder().decode(hpack.encode(headers)) == headers
