"""`python -m ropewalk` and the `ropewalk` script."""

from __future__ import annotations


def main() -> None:
    """Run the command."""
    from ropewalk.cli import main as command

    command.main()


if __name__ == "__main__":
    main()
