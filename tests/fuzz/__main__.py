"""`python -m tests.fuzz`: search one target for a while, or read given inputs again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.engine import TARGETS, close, load, search, search_plainly, watched


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    arguments.add_argument("target", choices=TARGETS)
    arguments.add_argument("inputs", nargs="*", type=Path, help="read these files instead of searching")
    arguments.add_argument("--seconds", type=int, default=60, help="how long to search")
    arguments.add_argument("--plain", action="store_true", help="search without atheris")
    arguments.add_argument("--seed", type=int, default=0, help="of the search; 0 takes a new one")
    asked = arguments.parse_args()
    if asked.inputs:
        target = load(asked.target)
        try:
            for path in asked.inputs:
                watched(target.try_one)(path.read_bytes())
        finally:
            close(target)
        sys.stdout.write(f"{len(asked.inputs)} inputs read\n")
    elif asked.plain:
        search_plainly(asked.target, asked.seconds, asked.seed)
    else:
        search(asked.target, asked.seconds, asked.seed)


if __name__ == "__main__":
    main()
