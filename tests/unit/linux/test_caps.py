from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.linux import caps


def test_masks_become_names() -> None:
    assert caps.parse_mask("0000000000000000") == frozenset()
    assert caps.parse_mask("0000000000000401") == {"CAP_CHOWN", "CAP_NET_BIND_SERVICE"}
    everything = caps.parse_mask("000001ffffffffff")
    assert len(everything) == 41
    assert everything - caps.parse_mask("000001fffeffffff") == {"CAP_SYS_RESOURCE"}


def test_bits_younger_than_this_table_are_left_out() -> None:
    assert caps.parse_mask("ffffffffffffffff") == frozenset(caps.NAMES)


def test_the_status_file_is_read_by_field(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapEff:\t0000000000000001\nCapBnd:\t0000000000000002\n")
    assert caps.read_status("CapBnd", str(status)) == {"CAP_DAC_OVERRIDE"}
    with pytest.raises(LookupError):
        caps.read_status("CapAmb", str(status))


def test_this_process_holds_no_more_than_its_bounding_set_and_the_kernel_knows_it() -> None:
    assert caps.bounding() <= frozenset(caps.NAMES)
    assert caps.NUMBERS["CAP_BPF"] == 39 <= caps.last_cap()
