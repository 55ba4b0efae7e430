"""`python -m tests.bench`: full hand-overs per second beside the null endpoint's cycles, in one run.

Prints a table and writes `build/bench.json` and `build/bench.png`. Exit code 1 if anything did not end as it should.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tests.bench.programs import Server, generate, login, make_requests, null_endpoint, provisioner
from tests.bench.report import Run, Series, print_table, write_json, write_plot

WARM_UP = 100


async def measure(devices: int, concurrency: int, rounds: int, folder: Path, progress: Progress) -> Run:
    """Run all rounds; the two kinds take turns."""
    run = Run(
        devices,
        concurrency,
        Series("null endpoint", "connect, subscribe, request, constant reply, disconnect"),
        Series("hand-over", "connect, subscribe, claim, sealed offer, ack, confirmed, disconnect"),
    )
    async with null_endpoint() as null, provisioner(folder) as real:
        count = rounds * devices + WARM_UP
        task = progress.add_task("making requests", total=count)
        listed = await make_requests(real, folder, count, lambda: progress.advance(task))
        user, password = login(folder)

        async def one(kind: str, server: Server, part: list[tuple[str, str]], name: str) -> dict[str, object]:
            task = progress.add_task(name, total=len(part))
            order = {
                "kind": kind,
                "port": server.port,
                "concurrency": concurrency,
                "user": user,
                "password": password,
                "devices": part,
            }
            used = server.cpu()
            said = await generate(order, teller(progress, task))
            progress.update(task, completed=len(part))
            return said | {"serverCpu": server.cpu() - used}

        # The first login of a user costs a slow hash, the first statements a parse: neither belongs to a rate.
        warm, listed = listed[:WARM_UP], listed[WARM_UP:]
        await one("null", null, warm, "warming up")
        await one("handover", real, warm, "warming up")
        for number in range(rounds):
            part = listed[number * devices : (number + 1) * devices]
            run.null.add(await one("null", null, part * 2, f"round {number + 1}: null endpoint"))
            run.handover.add(await one("handover", real, part, f"round {number + 1}: hand-overs"))
    return run


def teller(progress: Progress, task: TaskID) -> Callable[[int], None]:
    """What moves the bar of `task`."""
    return lambda done: progress.update(task, completed=done)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--devices", type=int, default=2000, help="hand-overs a round")
    parser.add_argument("--concurrency", type=int, default=200, help="connections at a time")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each kind")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder of bench.json and bench.png")
    options = parser.parse_args()
    if min(options.devices, options.concurrency, options.rounds) < 1:
        parser.error("all numbers are at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # On the disk of the results and not in memory: what a commit costs there is part of the figure.
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=options.out) as folder,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        run = asyncio.run(
            measure(options.devices, options.concurrency, options.rounds, Path(folder).resolve(), progress)
        )
    print_table(run)
    write_json(run, options.out / "bench.json")
    write_plot(run, options.out / "bench.png")
    sys.stdout.write(f"\n{options.out / 'bench.json'}, {options.out / 'bench.png'}\n")
    sys.exit(1 if run.failures else 0)


if __name__ == "__main__":
    main()
