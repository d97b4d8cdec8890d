"""Manual pages, in man(7)'s language, from what click knows of the commands and settings.py of the keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import click

from ropewalk.cli import exits, main
from ropewalk.daemon import config, settings
from ropewalk.version import VERSION

SEE = "ropewalk(1), ropewalk.toml(5)"
FILES = (
    (config.FILE, "Settings of the daemon; see ropewalk.toml(5)."),
    ("/etc/ropewalk/conf.d/*.toml", "More settings, read after it by name."),
    ("/etc/containerd/certs.d/REGISTRY/hosts.toml", "Mirrors and certificates of a registry; every pull reads it."),
    (config.STATE, "The socket, and what lives as long as the node runs."),
    (config.ROOT, "Images, layers and records."),
)
VARIABLES = (
    ("ROPEWALK_ADDRESS", "The socket that commands speak to; --address is stronger. Not read by ropewalk serve."),
    ("ROPEWALK_SECTION_KEY", "A setting of the daemon, as ropewalk.toml(5) names it; stronger than files."),
)
SIGNALS = (
    ("SIGHUP", "Read the configuration again. All of what changed takes effect, or nothing; the log says which."),
    ("SIGTERM, SIGINT", "End. Pods go on running, and the next daemon adopts them."),
)


def build() -> Iterator[tuple[str, str]]:
    """(path below /usr/share, text) of every page."""
    root = _context(main.ropewalk, "ropewalk", None)
    yield "man/man1/ropewalk.1", _overview(root)
    for verb in main.ropewalk.list_commands(root):
        yield f"man/man1/ropewalk-{verb}.1", _verb(verb, root)
    yield "man/man5/ropewalk.toml.5", _settings()


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    """As click makes it, without parsing arguments."""
    return click.Context(command, info_name=name, parent=parent, **command.context_settings)


def _overview(root: click.Context) -> str:
    verbs = [(f"ropewalk-{verb}(1)", f"{main.summary(verb)}.") for verb in main.ropewalk.list_commands(root)]
    codes = [(str(code), kind.name.lower().replace("_", " ")) for kind, code in exits.EXITS.items()]
    return "".join(
        (
            _head("ropewalk", 1, "pods and containers, and the daemon that serves the Kubernetes CRI"),
            _section("SYNOPSIS", _bold("ropewalk") + " " + _text("COMMAND [ARGUMENT...]")),
            _section("DESCRIPTION", _paragraphs(main.ropewalk.help or "")),
            _section("COMMANDS", _list(verbs)),
            _section("OPTIONS", _list(_options(main.ropewalk, root))),
            _section("ENVIRONMENT", _list(VARIABLES)),
            _section("FILES", _list(FILES)),
            _section("EXIT STATUS", _list([("0", "success"), *codes])),
            _section("SEE ALSO", _text("ropewalk.toml(5), crictl(1), crun(1)")),
        )
    )


def _verb(verb: str, root: click.Context) -> str:
    command = main.ropewalk.get_command(root, verb)
    assert command is not None
    context = _context(command, verb, root)
    parts = [_head(f"ropewalk-{verb}", 1, main.summary(verb)), _command(command, context)]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            parts.append(_command(inner, _context(inner, name, context), title=f"{verb} {name}".upper()))
    if verb == "serve":
        parts += [_section("SIGNALS", _list(SIGNALS)), _section("FILES", _list(FILES))]
    parts.append(_section("SEE ALSO", _text(SEE)))
    return "".join(parts)


def _command(command: click.Command, context: click.Context, *, title: str = "") -> str:
    """Synopsis, description and options; those of a command inside a group stand in one section `title`."""
    usage = _bold(context.command_path) + " " + _text(" ".join(command.collect_usage_pieces(context)))
    help = _paragraphs(command.help or "")
    options = _list(_options(command, context))
    if title:
        return _section(title, f"{usage}\n.PP\n{help}\n{options}")
    epilog = f".PP\n{_paragraphs(command.epilog)}" if command.epilog else ""
    return _section("SYNOPSIS", usage) + _section("DESCRIPTION", help) + _section("OPTIONS", options) + epilog


def _options(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    return [record for record in records if record is not None and record[1]]


def _settings() -> str:
    keys = [(f"{key.name} = {settings.toml(key.default)}", _describe(key)) for key in settings.keys(config.Config)]
    intro = (
        f"The daemon reads {config.FILE} (or --config FILE of ropewalk serve), then conf.d/*.toml beside it by name. "
        "Later wins: defaults, files, environment, command line. Keys are given here with their defaults; the part "
        "before the last dot is the TOML table.\n\nLive keys take effect with SIGHUP, the others with a restart, "
        "which leaves pods running. A reload is all or nothing."
    )
    return "".join(
        (
            _head("ropewalk.toml", 5, "configuration of the Ropewalk daemon"),
            _section("SYNOPSIS", _text(f"{config.FILE}, /etc/ropewalk/conf.d/*.toml")),
            _section("DESCRIPTION", _paragraphs(intro)),
            _section("SETTINGS", _list(keys)),
            _section("FILES", _list(FILES)),
            _section("SEE ALSO", _text("ropewalk(1), ropewalk-serve(1), ropewalk-config(1)")),
        )
    )


def _describe(key: settings.Key) -> str:
    change = "Live" if key.live else "Needs a restart"
    variable = f"{config.variable(key)}." if config.variable(key) else "Has no variable."
    help = key.help[0].upper() + key.help[1:].rstrip(".")
    return f"{help}. Value: {key.values}. {change}. {variable}"


# The language. Everything that is not a request goes through _text.


def _head(name: str, section: int, summary: str) -> str:
    title = f'.TH "{name.upper()}" "{section}" "" "ropewalk {VERSION}" "Ropewalk"\n'
    return title + _section("NAME", f"{_text(name)} \\- {_text(summary.rstrip('.').replace(chr(10), ' '))}")


def _section(name: str, body: str) -> str:
    return f".SH {_text(name)}\n{body}\n" if body else ""


def _paragraphs(text: str) -> str:
    """Blank lines part paragraphs; lines that begin with a space are kept as they are."""
    blocks = re.split(r"\n\s*\n", text.replace("\b\n", "").strip("\n"))
    return "\n.PP\n".join(_block(block) for block in blocks)


def _block(block: str) -> str:
    lines = block.splitlines()
    if all(line.startswith(" ") for line in lines):
        return ".nf\n" + "\n".join(map(_text, lines)) + "\n.fi"
    return _text(" ".join(line.strip() for line in lines))


def _list(entries: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f".TP\n{_bold(name)}\n{_text(' '.join(text.split()))}" for name, text in entries)


def _bold(text: str) -> str:
    return f"\\fB{_text(text)}\\fP"


def _text(text: str) -> str:
    """Plain text on one line; `code` is bold."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    escaped = re.sub(r"`([^`]+)`", r"\\fB\1\\fP", escaped)
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped
