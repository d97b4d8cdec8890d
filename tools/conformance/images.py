"""The images that critest names, with what it looks for inside, from Debian packages and a BusyBox of our own build.

Canonical names are kept: hosts.toml leads registry.k8s.io, k8s.gcr.io and gcr.io to the loopback registry. Each image
has a config digest of its own, because critest counts the tags of an image id.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

from tools import debian, images, oci, registry
from tools.conformance import busybox

TESTS = "registry.k8s.io/e2e-test-images"
STAGING = "gcr.io/k8s-staging-cri-tools"

HTTPD = "echo httpd: port 80 serves /var/www; exec httpd -f -v -p 80 -h /var/www"
USERS = {
    "user-uid": "1002",
    "user-username": "www-data",
    "user-uid-group": "1003:1004",
    "user-username-group": "www-data:1004",
}
NONEWPRIVS = """\
#include <stdio.h>
#include <unistd.h>

int main(void) { return printf("Effective uid: %d\\n", (int)geteuid()) < 0; }
"""
PAUSE = """\
#include <unistd.h>

int main(void) { return pause(); }
"""


def compiled(source: str, name: str, work: Path) -> bytes:
    """A static program of a few lines of C."""
    work.mkdir(exist_ok=True)
    file = work / f"{name}.c"
    file.write_text(source)
    debian.run("cc", "-static", "-Os", "-s", "-o", work / name, file)
    return (work / name).read_bytes()


def nginx_files(tree: oci.Tree, *, port: int) -> None:
    images.configure_nginx(tree, images.SITE.replace("80 ", f"{port} "))
    tree.symlink("var/run", "/run")  # where critest reads nginx.pid


def single(path: str, data: bytes | str, mode: int = 0o644) -> bytes:
    """A layer of one file."""
    return images.tree_layer(lambda tree: tree.file(path, data, mode))


def predefined_group(tree: oci.Tree) -> None:
    tree.file("etc/passwd", images.PASSWD.replace("tester", "default-user"))
    tree.file("etc/group", "root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")


def written(layout: oci.Layout, packages: dict[str, Path], work: Path) -> None:
    """All images into the layout."""
    shell = images.shell_layer(busybox.ensure())
    site = single("var/www/index.html", images.PAGE)

    def image(*layers: bytes, **config: Any) -> oci.Image:
        return oci.Image([shell, *layers], {"Env": [images.PATH], "Cmd": ["sh"], **config})

    def add_nginx(reference: str, port: int) -> None:
        layers = images.nginx_layers(packages, work / f"nginx-{port}", partial(nginx_files, port=port))
        layout.add(oci.Image([shell, *layers], images.NGINX_SETTINGS), reference)

    layout.add(image(), f"{TESTS}/busybox:1.29-2")
    add_nginx(f"{TESTS}/nginx:1.14-2", 80)
    add_nginx(f"{STAGING}/hostnet-nginx-amd64:latest", 12003)
    layout.add(image(site, Cmd=["sh", "-c", HTTPD]), f"{TESTS}/httpd:2.4.39-4")
    nonewprivs = single("nnp", compiled(NONEWPRIVS, "nnp", work), 0o4755)
    layout.add(image(nonewprivs, Entrypoint=["/nnp"], Cmd=[]), f"{TESTS}/nonewprivs:1.3")
    pause = single("pause", compiled(PAUSE, "pause", work), 0o755)
    layout.add(oci.Image([pause], {"Entrypoint": ["/pause"]}), "registry.k8s.io/pause:3.9")  # and k8s.gcr.io's
    for name in ("latest:latest", "tag:test", "tag:all", "digest:latest", "1:latest", "2:latest", "3:latest"):
        layout.add(image(single(f"{name.replace(':', '-')}.txt", "")), f"{STAGING}/test-image-{name}")
    layout.add(image(single("tags.txt", "")), *(f"{STAGING}/test-image-tags:{number}" for number in (1, 2, 3)))
    for name, user in USERS.items():
        layout.add(image(single(f"{name}.txt", ""), User=user), f"{STAGING}/test-image-{name}:latest")
    group = images.tree_layer(predefined_group)
    layout.add(image(group, User="1000"), f"{STAGING}/test-image-predefined-group:latest")


def make(directory: Path) -> None:
    """Fill a cache directory: layout/, registry/."""
    work = directory / "work"
    packages = debian.download(work / "packages", "nginx-light")
    layout = oci.Layout(directory / "layout", debian.run("dpkg", "--print-architecture").strip())
    written(layout, packages, work / "files")
    layout.close()
    debian.run("rm", "-rf", work)
    images.fill(made(directory))


def made(directory: Path) -> images.Made:
    return images.Made(directory / "layout", directory / "registry", images.ensure().program)


@cache
def ensure() -> images.Made:
    """The images, built now if the cache does not have them."""
    key = images.cache_key(
        debian.__file__, oci.__file__, registry.__file__, images.__file__, busybox.__file__, __file__
    )
    program = busybox.ensure()
    if not (debian.CACHE / f"conformance-{key}").exists():
        print(f"making critest's images (once) with {program} ...", flush=True)
    return made(debian.ensure_cached("conformance", key, make))
