"""docs: writes docs/settings.md from the settings' declarations; `./dev docs DIRECTORY` manual pages and completions.

DIRECTORY gets what belongs below /usr/share, also from the settings, and from the commands themselves. hatch_build.py
runs that for every wheel, so nothing of it is committed but settings.md, which a test compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from click.shell_completion import BashComplete, ShellComplete, get_completion_class

from ropewalk.cli import main as command
from ropewalk.daemon import config, settings
from tools import manual

SETTINGS = Path(__file__).parents[1] / "docs/settings.md"
COMPLETIONS = {
    "bash": "bash-completion/completions/ropewalk",
    "zsh": "zsh/site-functions/_ropewalk",
    "fish": "fish/vendor_completions.d/ropewalk.fish",
}
HEAD = """# Settings

*Written by `./dev docs` from the declarations in the code; edit those.*

The daemon reads `/etc/ropewalk/config.toml` (or `--config FILE`) and then `conf.d/*.toml` beside it, by name. Later
wins: defaults, files, the environment, flags of `ropewalk serve`. In a variable, the parts of a list are separated by
commas; on the command line any key is `--set KEY=VALUE`. `ropewalk config default` prints all keys as a file to edit,
`ropewalk config check` says what is wrong with one, `ropewalk config dump` what is in effect.

**Live** keys take effect with SIGHUP (`systemctl reload ropewalk`), the others with a restart, which leaves pods
running. A reload is [all or nothing](decisions/0007-a-reload-is-all-or-nothing.md): a file that is wrong, or that
changes a key which needs a restart, changes nothing, and the log and `systemctl status` say why. `hosts.toml` is read
by every pull.

Pulls use the proxies that `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` (names, addresses, CIDR ranges) of the daemon's
environment name: with systemd, `Environment=` in a drop-in of `ropewalk.service`.
"""


def build_settings() -> str:
    """docs/settings.md."""
    lines = [HEAD]
    for section, keys in groupby(settings.keys(config.Config), lambda key: key.path[:-1]):
        lines.append(f"## [{'.'.join(section)}]\n" if section else "## Top level\n")
        lines += ["| Key | Meaning | Value | Default | Changes | Variable |", "|---|---|---|---|---|---|"]
        lines += [_row(key) for key in keys]
        lines.append("")
    return "\n".join(lines)


def _row(key: settings.Key) -> str:
    cells = (
        f"`{key.path[-1]}`",
        key.help.replace("<", "&lt;"),
        key.values,
        f"`{settings.toml(key.default)}`",
        "live" if key.live else "restart",
        f"`{config.variable(key)}`" if config.variable(key) else "none",
    )
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


class Bash(BashComplete):
    """Without the question which bash this machine has: the file is for another."""

    @staticmethod
    def _check_version() -> None:
        pass


def build_completions() -> Iterator[tuple[str, str]]:
    """(path, text) below /usr/share. The scripts ask the command itself, so they know every verb and flag."""
    for shell, path in COMPLETIONS.items():
        kind: type[ShellComplete] | None = Bash if shell == "bash" else get_completion_class(shell)
        assert kind is not None
        yield path, kind(command.ropewalk, {}, "ropewalk", "_ROPEWALK_COMPLETE").source() + "\n"


def write(share: Path) -> None:
    """Manual pages and completions."""
    for name, text in (*manual.build(), *build_completions()):
        path = share / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main() -> int:
    if sys.argv[1:]:
        write(Path(sys.argv[1]))
    else:
        SETTINGS.write_text(build_settings())
    return 0


if __name__ == "__main__":
    sys.exit(main())
