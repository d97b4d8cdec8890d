"""The images that the demonstration and the tests run, made from Debian packages in seconds.

`busybox`: a shell and the usual commands (busybox-static). `nginx`: Debian's, with the libraries it needs, on top of
the same base layer. `ropewalk/*`: one image per property that a test needs. All are written into one OCI layout, pushed
once into the storage of a registry, and kept in the cache under the hash of what made them.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tools import debian, oci, registry

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

BUSYBOX = "docker.io/library/busybox:latest"
NGINX = "docker.io/library/nginx:latest"

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
tester:x:1000:1000:tester:/home/tester:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""
GROUP = """\
root:x:0:
daemon:x:1:
www-data:x:33:
staff:x:50:tester
tester:x:1000:
nogroup:x:65534:
"""
# Left out of what Debian packages hold: documentation, translations and character sets, half of the bytes.
BULK = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/bug", "usr/lib/*/gconv")
SITE = """\
server {
    listen 80 default_server;
    listen [::]:80 default_server;
    root /var/www/html;
}
"""
PAGE = "<!DOCTYPE html><title>nginx on Ropewalk</title><h1>Welcome to nginx on Ropewalk</h1>\n"


NGINX_SETTINGS: dict[str, Any] = {
    "Env": [PATH],
    "Cmd": ["nginx", "-g", "daemon off;"],
    "ExposedPorts": {"80/tcp": {}},
    "StopSignal": "SIGQUIT",
}


class Made(NamedTuple):
    """What `ensure` answers with: the OCI layout, storage for registries, and the registry's program."""

    layout: Path
    storage: Path
    program: Path


def skip(path: str) -> bool:
    return any(Path(*Path(path).parts[: bulk.count("/") + 1]).match(bulk) for bulk in BULK)


def shell_program(package: Path, work: Path) -> Path:
    """BusyBox out of its package."""
    debian.unpack(package, work)
    return next(path for path in (work / "bin/busybox", work / "usr/bin/busybox") if path.exists())


def shell_layer(program: Path) -> bytes:
    """/bin/busybox with a hard link per command, the directories every program expects, users and groups."""
    tree = oci.Tree()
    for name in ("bin", "dev", "etc", "home", "proc", "run", "sys", "usr", "usr/bin", "usr/sbin", "sbin", "var"):
        tree.directory(name)
    tree.directory("root", 0o700)
    tree.directory("home/tester", 0o755, (1000, 1000))
    tree.directory("tmp", 0o1777)
    tree.directory("var/tmp", 0o1777)
    tree.file("etc/passwd", PASSWD)
    tree.file("etc/group", GROUP)
    tree.file("etc/os-release", 'ID=ropewalk-test\nPRETTY_NAME="Ropewalk test image"\n')
    first, *others = sorted({"busybox", *debian.run(program, "--list").split()})
    tree.file(f"bin/{first}", program.read_bytes(), 0o755)
    for applet in others:
        tree.hardlink(f"bin/{applet}", f"bin/{first}")
    return tree.tar()


def package_layer(packages: list[Path], work: Path, extra: Callable[[oci.Tree], None] | None = None) -> bytes:
    for package in packages:
        debian.unpack(package, work)
    tree = oci.Tree()
    tree.copy(work, skip)
    if extra is not None:
        extra(tree)
    return tree.tar()


def configure_nginx(tree: oci.Tree, site: str = SITE) -> None:
    """What the packages' installation scripts would do; logs go to the container's output."""
    for name in ("var/www", "var/www/html", "var/lib", "var/lib/nginx"):
        tree.directory(name)
    tree.file("var/www/html/index.html", PAGE)
    tree.file("etc/nginx/sites-available/default", site)
    tree.symlink("etc/nginx/sites-enabled/default", "../sites-available/default")
    tree.symlink("var/log/nginx/access.log", "/dev/stdout")
    tree.symlink("var/log/nginx/error.log", "/dev/stderr")


def nginx_layers(packages: dict[str, Path], work: Path, configure: Callable[[oci.Tree], None]) -> list[bytes]:
    """The libraries it needs, and nginx itself; `packages` is what nginx-light and its dependencies are in."""
    nginx = [packages[name] for name in packages if "nginx" in name]
    needs = re.findall(r"[a-z0-9.+-]+", debian.run("dpkg-deb", "--field", packages["nginx"], "Depends"))
    libraries = [packages[name] for name in needs if name in packages and name.startswith(("lib", "zlib"))]
    return [package_layer(libraries, work / "libraries"), package_layer(nginx, work / "nginx", configure)]


def tree_layer(fill: Callable[[oci.Tree], None]) -> bytes:
    tree = oci.Tree()
    fill(tree)
    return tree.tar()


def lower_files(tree: oci.Tree) -> None:
    tree.directory("data")
    tree.directory("data/opaque")
    for name in ("data/kept", "data/removed", "data/opaque/hidden"):
        tree.file(name, f"{name} of the lower layer\n")


def upper_files(tree: oci.Tree) -> None:
    """Whiteout, opaque directory, hard link, setuid, extended attribute, file capability (cap_net_raw+ep)."""
    tree.file("data/.wh.removed", "")
    tree.file("data/opaque/.wh..wh..opq", "")
    tree.file("data/opaque/shown", "of the upper layer\n")
    tree.file("data/original", "one inode, two names\n")
    tree.hardlink("data/second", "data/original")
    tree.file("data/setuid", "#!/bin/sh\n", 0o4755)
    tree.file("data/attributes", "")
    tree.xattr("data/attributes", "user.ropewalk", b"yes")
    tree.file("data/capable", "", 0o755)
    tree.xattr("data/capable", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))


def small_images(shell: bytes) -> dict[str, oci.Image]:
    """docker.io/ropewalk/<name>:latest for tests: one property each, on the shell's layer."""

    def image(*layers: bytes, compression: str = "gzip", **config: Any) -> oci.Image:
        settings = {"Env": [PATH], "Cmd": ["sh"], **config}
        return oci.Image([shell, *layers], settings, compression)

    deep = [tree_layer(lambda tree, n=n: tree.file(f"layer-{n:03}", f"{n}\n")) for n in range(100)]  # type: ignore[misc]
    noise = random.Random(1).randbytes(48 << 20)
    return {
        "user-number": image(User="1000"),
        "user-name": image(User="tester:staff"),
        "user-unknown": image(User="nosuchuser"),
        "stop-signal": image(
            StopSignal="SIGUSR1", Cmd=["sh", "-c", "trap 'echo USR1; exit 7' USR1; while :; do sleep 0.1; done"],
        ),
        "entrypoint": image(
            Entrypoint=["/bin/echo", "entry"], Cmd=["command"], Env=[PATH, "COLOUR=red"], WorkingDir="/work/place",
            Labels={"org.ropewalk.test": "yes"}, Volumes={"/data": {}}, ExposedPorts={"80/tcp": {}},
        ),
        "layers": image(tree_layer(lower_files), tree_layer(upper_files)),
        "deep": oci.Image([shell, *deep], {"Env": [PATH], "Cmd": ["sh"]}),
        "big": image(tree_layer(lambda tree: tree.file("noise", noise))),
        "zstd": image(compression="zstd"),
        "plain": image(compression=""),
        "schema2": image(),  # pushed as Docker schema 2
    }  # fmt: skip


def make(directory: Path) -> None:
    """Fill a cache directory: programs/, layout/, registry/."""
    work = directory / "work"
    packages = debian.download(work / "packages", "busybox-static", "nginx-light", "docker-registry")
    debian.unpack(packages.pop("docker-registry"), directory / "programs")
    shell = shell_layer(shell_program(packages.pop("busybox-static"), work / "shell"))
    layout = oci.Layout(directory / "layout", debian.run("dpkg", "--print-architecture").strip())
    layout.add(
        oci.Image([shell], {"Env": [PATH], "Cmd": ["sh"]}, index=True),
        BUSYBOX, "docker.io/library/busybox:1.35", "registry.k8s.io/e2e-test-images/busybox:1.29-4",
    )  # fmt: skip
    layout.add(
        oci.Image([shell, *nginx_layers(packages, work, configure_nginx)], NGINX_SETTINGS),
        NGINX,
        "docker.io/library/nginx:1.22",
        "registry.k8s.io/e2e-test-images/nginx:1.14-2",
    )
    for name, image in small_images(shell).items():
        layout.add(image, f"docker.io/ropewalk/{name}:latest")
    layout.close()
    debian.run("rm", "-rf", work)
    fill(made(directory))


def push(running: registry.Registry, layout: Path, reference: str) -> None:
    running.push(layout, reference, format="v2s2" if "/schema2:" in reference else "")


def fill(made: Made) -> None:
    """Push every image of the layout, by its canonical name without the registry's, into storage for registries."""
    with registry.Registry(made.program, storage=made.storage) as running:
        entries = json.loads((made.layout / "index.json").read_bytes())["manifests"]
        references = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in entries]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda reference: push(running, made.layout, reference), references))


def made(directory: Path) -> Made:
    return Made(directory / "layout", directory / "registry", directory / "programs/usr/bin/docker-registry")


def cache_key(*sources: str) -> str:
    """Of what these program files make on this release of Debian."""
    release = Path("/etc/os-release").read_bytes() + debian.run("dpkg", "--print-architecture").encode()
    parts = [Path(source).read_bytes() for source in sources]
    return hashlib.sha256(b"\0".join([*parts, release])).hexdigest()[:16]


@cache
def ensure() -> Made:
    """The images, built now if the cache does not have them."""
    key = cache_key(debian.__file__, oci.__file__, registry.__file__, __file__)
    if not (debian.CACHE / f"images-{key}").exists():
        print("making the test images from Debian packages (once) ...", flush=True)
    return made(debian.ensure_cached("images", key, make))
