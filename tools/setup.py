"""setup: everything the other verbs stand on, and nothing else; the second time it has nothing to do."""

from __future__ import annotations

import sys

from tools import images, shims


def main() -> int:
    images.ensure()
    shims.ensure()
    print("set up: ./dev demo shows it, ./dev test checks it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
