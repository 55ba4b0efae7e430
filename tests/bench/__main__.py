"""`python -m tests.bench`: full hand-overs beside the null endpoint, plain, TLS and through a bridge; and a herd.

Prints tables and writes `build/bench.json` and `build/bench.png`. Exit code 1 if anything did not end as it should.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tests.bench import herd
from tests.bench.plot import write_plot
from tests.bench.programs import Server, bridged, generate, make_requests, null_bridge, null_endpoint, provisioner
from tests.bench.report import Costs, Run, print_report, write_json

WARM_UP = 100

Devices = list[tuple[str, str]]


@dataclass
class Bench:
    """One run: how much, where, and who shows how far it is."""

    devices: int
    concurrency: int
    rounds: int
    crowd: int
    folder: Path
    progress: Progress

    async def run(self) -> Run:
        """Measure everything; the kinds take turns."""
        run = Run(self.devices, self.concurrency)
        await self._measure(run)
        await self._measure_bridge(run)
        run.costs = await self._sample()
        if self.crowd:
            run.herd = await self._let_loose()
        return run

    async def _measure(self, run: Run) -> None:
        async with null_endpoint(self._folder("null")) as null, provisioner(self._folder("rates")) as real:
            listed = await self._requests(real, 2 * self.rounds * self.devices + WARM_UP)
            # The first login of a user costs a slow hash, the first statements a parse: neither belongs to a rate.
            await self._round("null", null, listed[:WARM_UP], "warming up")
            await self._round("handover", real, listed[:WARM_UP], "warming up")
            certified = iter(await self._requests(real, self.rounds * self.devices, "x509"))
            parts = iter(listed[at : at + self.devices] for at in range(WARM_UP, len(listed), self.devices))
            for number in range(1, self.rounds + 1):
                for pair, tls in ((run.plain, False), (run.tls, True)):
                    name, part = f"round {number}{', TLS' if tls else ''}: ", next(parts)
                    pair.null.add(await self._round("null", null, part * 2, name + "null endpoint", tls=tls))
                    said = await self._round("handover", real, part, name + "hand-overs", tls=tls)
                    pair.ours.add(said)
                    if not tls:
                        run.certificate.null.add(said)
                        part = list(islice(certified, self.devices))
                        said = await self._round("certificate", real, part, name + "certificates")
                        run.certificate.ours.add(said)

    async def _measure_bridge(self, run: Run) -> None:
        async with null_bridge(self._folder("null bridge")) as null, bridged(self._folder("bridged")) as real:
            listed = await self._requests(real, self.rounds * self.devices + WARM_UP)
            await self._round("null", null, listed[:WARM_UP], "warming up")
            await self._round("handover", real, listed[:WARM_UP], "warming up")
            for number in range(1, self.rounds + 1):
                at = WARM_UP + (number - 1) * self.devices
                part, name = listed[at : at + self.devices], f"round {number}, bridge: "
                run.bridge.null.add(await self._round("twice", null, part * 2, name + "null bridge"))
                run.bridge.ours.add(await self._round("handover", real, part, name + "hand-overs"))

    async def _sample(self) -> list[Costs]:
        """Where the processor time goes; apart from the rates, as looking costs a little as well."""
        async with (
            null_endpoint(self._folder("null samples"), sampled=True) as null,
            provisioner(self._folder("samples"), sampled=True) as real,
        ):
            listed = await self._requests(real, 2 * self.devices + WARM_UP)
            certified = await self._requests(real, self.devices, "x509")
            await self._round("handover", real, listed[:WARM_UP], "warming up")
            first, second = listed[-2 * self.devices : -self.devices], listed[-self.devices :]
            return [
                await self._cost("null", null, first * 2, "null"),
                await self._cost("handover", real, first, "hand-over"),
                await self._cost("null", null, second, "null, TLS", tls=True),
                await self._cost("handover", real, second, "hand-over, TLS", tls=True),
                await self._cost("certificate", real, certified, "certificate"),
            ]

    async def _cost(self, kind: str, server: Server, part: Devices, name: str, *, tls: bool = False) -> Costs:
        async with server.sampling() as shares:
            said = await self._round(kind, server, part, f"sampling: {name}", tls=tls)
        seconds = said["serverCpu"] / max(1, len(said["latencies"]))
        return Costs(name, {phase: seconds * share for phase, share in shares.items()})

    async def _let_loose(self) -> herd.Herd:
        requests, devices = (
            self.progress.add_task(name, total=self.crowd) for name in ("making requests", "herd: confirmed")
        )
        return await herd.run(self.crowd, self._folder("herd"), self._teller(requests), self._teller(devices))

    async def _round(self, kind: str, server: Server, part: Devices, name: str, *, tls: bool = False) -> dict[str, Any]:
        task = self.progress.add_task(name, total=len(part))
        order = {
            "kind": kind,
            "port": server.tls_port if tls else server.port,
            "tls": tls,
            "concurrency": self.concurrency,
            "user": server.login[0],
            "password": server.login[1],
            "devices": part,
        }
        used = server.cpu()
        said = await generate(order, self._teller(task))
        self.progress.update(task, completed=len(part))
        return said | {"serverCpu": server.cpu() - used}

    async def _requests(self, server: Server, count: int, kind: str = "password") -> Devices:
        task = self.progress.add_task("making requests", total=count)
        return await make_requests(server, count, lambda: self.progress.advance(task), kind)

    def _teller(self, task: TaskID) -> Callable[[int], None]:
        return lambda done: self.progress.update(task, completed=done)

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--devices", type=int, default=2000, help="hand-overs a round")
    parser.add_argument("--concurrency", type=int, default=200, help="connections at a time")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each kind")
    parser.add_argument("--herd", type=int, default=10_000, help="devices that arrive at once, 1,000 a second; 0: none")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder of bench.json and bench.png")
    options = parser.parse_args()
    if min(options.devices, options.concurrency, options.rounds) < 1:
        parser.error("all numbers but --herd are at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # On the disk of the results and not in memory: what a commit costs there is part of the figure.
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=options.out) as folder,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        bench = Bench(
            options.devices, options.concurrency, options.rounds, options.herd, Path(folder).resolve(), progress
        )
        run = asyncio.run(bench.run())
    print_report(run)
    write_json(run, options.out / "bench.json")
    write_plot(run, options.out / "bench.png")
    sys.stdout.write(f"\n{options.out / 'bench.json'}, {options.out / 'bench.png'}\n")
    sys.exit(1 if run.failures else 0)


if __name__ == "__main__":
    main()
