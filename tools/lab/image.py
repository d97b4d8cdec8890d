"""The guest's disk: Debian 12 with systemd, the runtimes and our agent, made once and kept in the tools' cache.

Two environments wait in it: DEV with everything of tools/requirements.lock and TREE, for the test suites, and USER with
Ropewalk's dependencies alone, so that a user's `pip install --no-index` of its wheel has little to do. Ropewalk itself
is not in it.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

from tools import debian, images

ROOT = Path(__file__).parents[2]
SUITE, PYTHON = "bookworm", "3.11"
WHEELS = "/usr/local/share/wheels"
DEV, USER = "/opt/ropewalk-dev", "/opt/ropewalk"
TREE = "/root/ropewalk"  # where the working tree is put
AGENT = "/usr/local/lib/ropewalk-lab"
SPACE = 4 << 30  # bytes free in the guest; the file is sparse
# Beside tools/packages.txt: what makes it a machine, and what Debian 12 has of what Ropewalk works with.
PACKAGES = (
    "apparmor", "containernetworking-plugins", "dbus", "docker-registry", "e2fsprogs", "initramfs-tools", "iptables",
    "kmod", "less", "linux-image-cloud-amd64", "procps", "psmisc", "python3", "runc", "systemd", "systemd-sysv", "udev",
    "zstd",
)  # fmt: skip
# An initrd of what this machine needs is 6 MB instead of 30, which QEMU's translator feels.
INITRD = {
    "etc/initramfs-tools/conf.d/lab": "MODULES=list\nCOMPRESS=zstd\n",
    "usr/share/initramfs-tools/modules.d/lab": "virtio_pci\nvirtio_blk\next4\n",
}
UNIT = f"""\
[Unit]
Description=Ropewalk's lab: commands from the host

[Service]
ExecStart=/usr/bin/python3 -m tools.lab.agent
WorkingDirectory={AGENT}
Restart=always
RestartSec=1
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
"""
FILES = {
    "etc/hostname": "lab\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 lab\n::1 localhost\n",
    "etc/machine-id": "6c6162206f6620726f706577616c6b21\n",  # a given one: no first boot with its presets
    "etc/systemd/system/ropewalk-lab.service": UNIT,
    "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=persistent\n",
    "root/.hushlogin": "",
}
# What runs by itself on a Debian system costs seconds of a boot, and spoils the figures of whoever measures.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "docker-registry.service", "dpkg-db-backup.timer",
    "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "getty@tty1.service",
    "man-db.timer", "modprobe@.service", "serial-getty@ttyS0.service", "systemd-binfmt.service",
    "systemd-timesyncd.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
)  # fmt: skip


class Image(NamedTuple):
    disk: Path
    kernel: Path
    initrd: Path


def packages() -> list[str]:
    listed = (ROOT / "tools/packages.txt").read_text().splitlines()
    return sorted({*PACKAGES, *(line for line in listed if line and not line.startswith("#"))})


def guest_modules() -> dict[str, bytes]:
    """What the agent consists of, by its path below AGENT."""
    names = ("tools/__init__.py", "tools/lab/__init__.py", "tools/lab/frames.py", "tools/lab/agent.py")
    return {name: (ROOT / name).read_bytes() for name in names}


def make_root(root: Path) -> None:
    """The packages. debootstrap's successor asks apt, so the machine's proxy variables count."""
    hook = ""
    for name, text in INITRD.items():
        hook += f'mkdir -p "$1/{Path(name).parent}"; printf %s {text.encode("unicode_escape").decode()!r} | '
        hook += f'sed "s/\\\\\\\\n/\\n/g" >"$1/{name}"; '
    debian.run(
        "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages())}", f"--essential-hook={hook}",
        SUITE, root,
    )  # fmt: skip


def dependencies() -> list[str]:
    """Ropewalk's own, as its wheel will say."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [str(one) for one in project["dependencies"]]


def make_environments(root: Path) -> None:
    """DEV, USER and WHEELS. Wheels are fetched by the machine's pip, so its index is asked; the guest's own
    Python installs them, here, at full speed."""
    lock = ROOT / "tools/requirements.lock"
    target = ("--python-version", PYTHON, "--only-binary=:all:", "--implementation=cp", "--no-deps")
    platforms = ("_2_28", "_2_17", "2014", "_2_12", "2010", "_2_5", "1")
    kinds = tuple(f"--platform=manylinux{platform}_x86_64" for platform in platforms)
    wheels = root / WHEELS[1:]
    debian.run(
        sys.executable, "-m", "pip", "-q", "download", "--disable-pip-version-check", "--require-hashes", *target,
        *kinds, "-r", lock, "-d", wheels,
    )  # fmt: skip
    shutil.copy(lock, root / "tmp/requirements.lock")
    for place, wanted in ((DEV, ["-r", "/tmp/requirements.lock"]), (USER, dependencies())):
        debian.run("chroot", root, "/usr/bin/python3", "-m", "venv", place)
        pip = (
            "chroot",
            root,
            f"{place}/bin/python",
            "-m",
            "pip",
            "-q",
            "--no-cache-dir",
            "--disable-pip-version-check",
        )
        debian.run(*pip, "install", "--no-index", "--find-links", WHEELS, *wanted)
    debian.run("chroot", root, f"{DEV}/bin/python", "-m", "compileall", "-q", "/usr/lib/python3", DEV, USER)
    (root / "tmp/requirements.lock").unlink()
    (root / f"{DEV[1:]}/lib/python{PYTHON}/site-packages/ropewalk.pth").write_text(f"{TREE}\n")


def configure(root: Path) -> None:
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name, content in guest_modules().items():
        path = root / AGENT[1:] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    units = root / "etc/systemd/system"
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    wanted = units / "multi-user.target.wants/ropewalk-lab.service"
    wanted.parent.mkdir(exist_ok=True)
    wanted.symlink_to("/etc/systemd/system/ropewalk-lab.service")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").touch()


def make_disk(tree: Path, disk: Path, label: str, space: int) -> None:
    """An ext4 image that holds `tree` and has `space` bytes left."""
    used = int(debian.run("du", "-s", "--block-size=1", tree).split()[0])
    with disk.open("xb") as file:
        file.truncate((used + space) // 4096 * 4096)
    debian.run("mkfs.ext4", "-q", "-F", "-L", label, "-d", tree, disk)


def make(directory: Path) -> None:
    root = directory / "root"
    try:
        make_root(root)
        make_environments(root)
        configure(root)
        for kind, name in (("vmlinuz", "kernel"), ("initrd.img", "initrd")):
            (found,) = (root / "boot").glob(f"{kind}-*")
            shutil.copy(found, directory / name)
        make_disk(root, directory / "disk", "lab", SPACE)
    finally:
        debian.run("rm", "-rf", "--one-file-system", root)


def ensure() -> Image:
    """Made now if the cache does not have it."""
    if platform.machine() != "x86_64":
        raise RuntimeError(f"the lab VM is built for x86_64 machines only; this one is {platform.machine()}")
    parts = [Path(__file__).read_bytes(), (ROOT / "tools/requirements.lock").read_bytes(), *guest_modules().values()]
    parts += [" ".join(names).encode() for names in (packages(), dependencies())]
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    if not (debian.CACHE / f"lab-{key}").exists():
        print("making the lab VM's disk from Debian packages (once, 2 minutes) ...", file=sys.stderr, flush=True)
    directory = debian.ensure_cached("lab", key, make)
    return Image(directory / "disk", directory / "kernel", directory / "initrd")


def ensure_images() -> Path:
    """A disk with the test images' cache directory, for the guest to mount where its own tools look for it."""
    made = images.ensure().layout.parent

    def fill(directory: Path) -> None:
        make_disk(made, directory / "disk", "images", 64 << 20)

    return debian.ensure_cached("labimages", images_name().partition("-")[2], fill) / "disk"


def images_name() -> str:
    """The cache's directory of the test images, without what leads to it."""
    return images.ensure().layout.parent.name
