"""The images of the measurements: the payload, containerd's pause image, and one of 500 MB to pull."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

from tools import debian, images, oci, registry

PAYLOAD = "docker.io/ropewalk/bench:latest"
PAUSE = "registry.k8s.io/pause:3.10"
BIG = "docker.io/ropewalk/bench-big:latest"
BIG_BYTES = 500_000_000

# One static process without children that ends at once at SIGTERM: catatonit in its pause mode (catatonit(8)).
COMMAND = ["/catatonit", "-P"]


def _shell() -> bytes:
    """The busybox layer of the test images, as a tar."""
    layout = images.ensure().layout
    blobs = layout / "blobs" / "sha256"
    entries = json.loads((layout / "index.json").read_bytes())["manifests"]
    named = {entry["annotations"]["org.opencontainers.image.ref.name"]: entry for entry in entries}
    manifest = json.loads((blobs / named["docker.io/ropewalk/plain:latest"]["digest"][7:]).read_bytes())
    name: str = manifest["layers"][0]["digest"][7:]
    return (blobs / name).read_bytes()


def _init() -> bytes:
    program = shutil.which("catatonit")
    assert program is not None, "catatonit is not installed"
    tree = oci.Tree()
    tree.file("catatonit", Path(program).read_bytes(), 0o755)
    return tree.tar()


def _big() -> bytes:
    """Eight files that gzip halves: blocks of noise, each written twice."""
    noise = random.Random(4)
    tree = oci.Tree()
    for number in range(8):
        blocks = [noise.randbytes(16 << 10) for _ in range(BIG_BYTES // 8 // (32 << 10))]
        tree.file(f"data-{number}", b"".join(block * 2 for block in blocks))
    return tree.tar()


def _make(directory: Path) -> None:
    layout = oci.Layout(directory / "layout", debian.run("dpkg", "--print-architecture").strip())
    init = _init()
    layout.add(oci.Image([init], {"Env": [images.PATH], "Entrypoint": COMMAND}), PAUSE)
    layout.add(oci.Image([_shell(), init], {"Env": [images.PATH], "Cmd": COMMAND}), PAYLOAD)
    layout.add(oci.Image([_big()], {"Env": [images.PATH], "Cmd": COMMAND}), BIG)
    layout.close()


def ensure() -> Path:
    """The OCI layout, built once into the cache."""
    program = Path(shutil.which("catatonit") or "/nonexistent").read_bytes()
    source = Path(__file__).read_bytes()
    key = hashlib.sha256(b"\0".join([source, program, str(images.ensure().layout).encode()])).hexdigest()[:16]
    if not (debian.CACHE / f"bench-{key}").exists():
        print("making the bench's images (once) ...", flush=True)
    return debian.ensure_cached("bench", key, _make) / "layout"


def push(running: registry.Registry, *, big: bool) -> None:
    layout = ensure()
    for reference in (PAUSE, PAYLOAD, *([BIG] if big else [])):
        images.push(running, layout, reference)
