"""The ordinary test suites, in a lab VM of their own: on cgroup v2, as a machine with systemd runs them."""

from __future__ import annotations

from pathlib import Path

from tools.lab import image, machine

SLOWER = 10  # than this machine: how much longer a test may take
LIMIT = 900.0  # seconds for one suite
# In the order of what is worth most; files share private nodes, unit tests nothing.
SUITES = {
    "unit": ("tests/unit", "--dist=worksteal"),
    "contract": ("tests/contract", "--dist=loadfile"),
    "node": ("tests/node/linux", "tests/node/runtimes", "--dist=loadfile"),
}


def run(reports: Path) -> list[Path]:
    """Every suite, its output shown: JUnit reports, one a suite that came to its end."""
    written = []
    with machine.Machine(images=True) as vm:
        vm.put_tree()
        environment = {"PATH": f"{image.DEV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        for name, arguments in SUITES.items():
            print(f"== {name} tests in the lab VM", flush=True)
            report = f"/tmp/{name}.xml"
            options = ("-n", str(machine.PROCESSORS), f"--timeout={60 * SLOWER}", f"--junit-xml={report}")
            vm.run(
                f"{image.DEV}/bin/python", "-m", "pytest", *options, *arguments,
                env=environment, cwd=image.TREE, timeout=LIMIT, check=False, output=machine.echo,
            )  # fmt: skip
            if vm.run("test", "-e", report, check=False).code == 0:
                (reports / f"{name}.xml").write_text(vm.read(report))
                written.append(reports / f"{name}.xml")
    return written
