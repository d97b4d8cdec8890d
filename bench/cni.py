"""The CNI network that both sides use: Debian's or upstream's plugins, one configuration each, of the same form."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

PLUGINS = ("/opt/cni/bin", "/usr/lib/cni")  # upstream's place, Debian's place
NAMES = ("bridge", "host-local", "portmap", "loopback")


def directory() -> str:
    """The directory that has the plugins of `network`; "" if none."""
    return next((path for path in PLUGINS if all(Path(path, name).exists() for name in NAMES)), "")


def missing() -> str:
    """Why pods cannot be measured on a CNI network here; "" if they can."""
    return "" if directory() else f"no CNI plugins in {' or '.join(PLUGINS)}"


def network(name: str, bridge: str, subnet: str, data: str) -> str:
    """A conflist: bridge, host-local addresses, host ports; no masquerading (Ropewalk's bridge does it in nftables)."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": data}
    first = {"type": "bridge", "bridge": bridge, "isGateway": True, "ipMasq": False, "hairpinMode": True, "ipam": ipam}
    second = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": [first, second]})


def write(base: Path, tag: str) -> Path:
    """The configuration of the side with this tag (4 hex digits) in `base`/net.d, which is returned."""
    subnet = f"10.{200 + int(tag[:2], 16) % 50}.{int(tag[2:], 16) & 0xFC}.0/22"
    (base / "net.d").mkdir()
    text = network(f"bench-{tag}", _bridge(tag), subnet, str(base / "addresses"))
    (base / "net.d" / "10-bench.conflist").write_text(text)
    return base / "net.d"


def remove(tag: str) -> None:
    """The bridge, which no plugin removes."""
    subprocess.run(["ip", "link", "delete", _bridge(tag)], check=False, capture_output=True)


def _bridge(tag: str) -> str:
    return f"ropewalk-c{tag}"
