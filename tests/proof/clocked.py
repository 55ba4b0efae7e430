"""The program under a wall clock that a test sets: `python -m tests.proof.clocked CLOCK serve`.

CLOCK is a file with the milliseconds that the clock is ahead. The program knows nothing of it: the composition root's
clock is replaced before it starts, and every step of the jobs adds a dot to `CLOCK.steps`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from broker import parts
from broker.__main__ import main as program
from provisioner.jobs import Jobs
from provisioner.model import Millis


def main() -> None:
    file = Path(sys.argv.pop(1))
    right, step = parts.now, Jobs.step

    def clock() -> Millis:
        return right() + int(file.read_text())

    async def counted(self: Jobs, now: Millis) -> Millis:
        with file.with_suffix(".steps").open("a") as steps:
            steps.write(".")
        return await step(self, now)

    parts.now = clock
    Jobs.step = counted  # type: ignore[method-assign]  # to count from outside
    program()


if __name__ == "__main__":
    main()
