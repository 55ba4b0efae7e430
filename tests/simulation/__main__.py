"""`python -m tests.simulation --seed N` tells the story of one run; `--seeds N` runs many and names the broken ones."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.world import Verdict, simulate


def say(line: str) -> None:
    """A line for whoever asked."""
    sys.stdout.write(line + "\n")


def tell(verdict: Verdict, last: int) -> None:
    """Print a story, or the end of it."""
    lines = list(verdict.lines())
    for line in lines[-last:] if last else lines:
        say(line)
    say(f"seed {verdict.seed}: {verdict.broken or 'every rule held'}")
    say(f"{verdict.steps} steps, {verdict.seconds:.0f} s of virtual time, story {verdict.digest[:16]}")


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="the run to tell")
    parser.add_argument("--last", type=int, default=0, metavar="LINES", help="only the end of the story")
    parser.add_argument("--seeds", type=int, default=1000, help="how many runs")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    options = parser.parse_args()
    if options.seed is not None:
        verdict = simulate(options.seed)
        tell(verdict, options.last)
        return bool(verdict.broken)
    began = time.process_time()
    steps, broken = 0, 0
    for seed in range(options.first, options.first + options.seeds):
        verdict = simulate(seed)
        steps += verdict.steps
        if verdict.broken:
            broken += 1
            say(f"seed {seed}: {verdict.broken}")
    each = (time.process_time() - began) / options.seeds * 1000
    say(f"{options.seeds} seeds, {steps} steps, {broken} broken, {each:.1f} ms each")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
