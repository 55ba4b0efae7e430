"""What the clients of `examples/clients/` cost: `python -m tests.clients.footprint` measures and writes their table.

1. Bytes on the wire are those of MQTT on the provisioning connections of one hand-over, played from the transcript of
   its mode; TCP and TLS come on top. They are the same on every machine.
2. Flash and RAM of the C client are what the compiler says of `provision.h`, without the caller, its MQTT and its
   cryptography. The cross compiler (Debian packages gcc-arm-none-eabi, libnewlib-arm-none-eabi) is needed here alone.
3. Of programs in other languages it is the peak of memory, and for MicroPython the heap in use.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.broker.fleet import double
from tests.clients.every_client_follows_the_transcripts import HAND_OVERS, TRANSCRIPTS
from tests.clients.examples import CLIENTS, IN_EVERY_MODE, Client, Device
from tests.clients.player import PASSWORD, Player
from tests.programs import needed

TABLE: Final = CLIENTS / "README.md"
MARKS: Final = ("<!-- footprint -->\n", "<!-- end of footprint -->\n")
_PEAK: Final = (
    "import resource, subprocess, sys\n"
    "code = subprocess.run(sys.argv[2:]).returncode\n"
    "open(sys.argv[1], 'w').write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))\n"
    "sys.exit(code)\n"
)


@dataclass(frozen=True)
class Measured:
    """One hand-over: bytes on its provisioning connections, from the client and to it, and what the client told."""

    up: int
    down: int
    steps: tuple[str, ...]


async def hand_over(client: Client, mode: str, folder: Path, prefix: tuple[str, ...] = ()) -> Measured:
    """Let it be provisioned once by a transcript."""
    async with Player(TRANSCRIPTS / f"{HAND_OVERS[mode]}.jsonl") as player:
        login = {"user": double.USER, "password": PASSWORD, "clientId": double.CLIENT_ID, "activationKey": double.KEY}
        started = Client(client.name, client.modes, lambda: [*prefix, *client.command()])
        device = Device(started, folder, {"host": "127.0.0.1", "port": player.port, **login, "mode": mode})
        if await device.run() != 0 or not player.is_over:
            raise SystemExit(f"{client.name} is not provisioned in mode {mode}: {player.faults}, {device.steps}")
        return Measured(player.received, player.sent, tuple(device.steps))


async def measure_wire(folder: Path) -> dict[tuple[str, str], Measured]:
    """Of every client in every mode."""
    return {
        (client.name, mode): await hand_over(client, mode, folder / f"{client.name}-{mode}")
        for client, mode in IN_EVERY_MODE
    }


async def measure_peaks(folder: Path) -> dict[str, int]:
    """KiB of resident memory at most, of a hand-over in proof mode, by the clients that are programs of a machine."""
    found = {}
    for client, mode in IN_EVERY_MODE:
        if mode == "proof" and client.name not in {"c", "arduino", "micropython"}:
            note = folder / f"{client.name}.peak"
            await hand_over(client, mode, folder / f"{client.name}-peak", (sys.executable, "-c", _PEAK, str(note)))
            found[client.name] = int(note.read_text())
    return found


async def measure_heap(folder: Path) -> int:
    """Bytes of heap in use at most, of the MicroPython client in proof mode; it tells them itself."""
    client = next(client for client, _ in IN_EVERY_MODE if client.name == "micropython")
    os.environ["MEMORY"] = "1"
    device = await hand_over(client, "proof", folder / "heap")
    return int(device.steps[-1].removeprefix("memory "))


@dataclass(frozen=True)
class Size:
    """Bytes of `provision.h`: code and constants, one `struct provision`, the deepest stack of its functions."""

    flash: int
    ram: int
    stack: int


_SIZED: Final = (
    "#define PROVISION_IMPLEMENTATION\n#include <provision.h>\n"
    "char provision_ram[sizeof(struct provision)];\n"  # its size is in the symbol table
)


def measure_size(compiler: tuple[str, ...], *options: str) -> Size:
    """Compile it alone."""
    tools = compiler[0].removesuffix("gcc")
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder) / "sized.c", Path(folder) / "sized.o"
        source.write_text(_SIZED)
        include = ("-I", str(CLIENTS / "c"), "-idirafter", "/usr/include")
        command = [
            *compiler,
            "-std=c99",
            "-Os",
            "-fstack-usage",
            *options,
            *include,
            "-c",
            "-o",
            str(built),
            str(source),
        ]
        subprocess.run(command, check=True)
        sizes = subprocess.run([f"{tools}size", str(built)], capture_output=True, text=True, check=True).stdout
        text, data, _bss = map(int, sizes.splitlines()[1].split()[:3])
        names = subprocess.run([f"{tools}nm", "-S", str(built)], capture_output=True, text=True, check=True).stdout
        ram = re.search(r"(\w+) [BDC] provision_ram", names)
        assert ram
        assert " U malloc" not in names
        return Size(text + data, int(ram[1], 16), _deepest(built.with_suffix(".su").read_text()))


def _deepest(usage: str) -> int:
    """The chain that takes an offer: what was inlined is in the frame of its caller."""
    frames = {line.split("\t")[0].rpartition(":")[2]: int(line.split("\t")[1]) for line in usage.splitlines()}
    chain = (
        "provision_message",
        "prov_take_offer",
        "prov_read_offer",
        "prov_string",
        "prov_find",
        "prov_parse",
        "jsmn_parse",
    )
    return sum(size for name, size in frames.items() if name in chain)


def tables(wire: dict[tuple[str, str], Measured], sizes: dict[str, Size], peaks: dict[str, int], heap: int) -> str:
    """The tables as they stand in the README."""
    lines = ["| client | mode | bytes sent | bytes received |", "|---|---|---|---|"]
    lines += [f"| {name} | {mode} | {one.up:,} | {one.down:,} |" for (name, mode), one in wire.items()]
    lines += ["", "| `c/provision.h`, `-Os` | flash | RAM | stack |", "|---|---|---|---|"]
    lines += [f"| {name} | {one.flash:,} | {one.ram:,} | {one.stack:,} |" for name, one in sizes.items()]
    lines += ["", "| client | source, bytes | memory |", "|---|---|---|"]
    for name, peak in peaks.items():
        lines.append(f"| {name} | {source_size(name):,} | {peak / 1024:.0f} MiB resident at most |")
    lines.append(f"| micropython | {source_size('micropython'):,} | {heap / 1024:.0f} KiB of heap at most |")
    return "\n".join(lines) + "\n"


def source_size(name: str) -> int:
    """Bytes of the one file."""
    (file,) = (CLIENTS / name).glob("provision.*")
    return file.stat().st_size


CORTEX: Final = ("arm-none-eabi-gcc", "-mcpu=cortex-m0plus", "-mthumb")


def measure_sizes() -> dict[str, Size]:
    """With and without the proofs, for a small chip and for this machine."""
    needed("arm-none-eabi-gcc", "gcc-arm-none-eabi libnewlib-arm-none-eabi")
    both = {"plain and proof": (), "plain alone": ("-DPROVISION_PLAIN_ONLY",)}
    targets = {"Cortex-M0+": CORTEX, "x86-64": ("gcc",)}
    return {
        f"{target}, {modes}": measure_size(compiler, *options)
        for target, compiler in targets.items()
        for modes, options in both.items()
    }


async def main() -> None:
    """Measure, and put the tables where they belong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = tables(
            await measure_wire(folder), measure_sizes(), await measure_peaks(folder), await measure_heap(folder)
        )
    head, _, rest = TABLE.read_text(encoding="utf-8").partition(MARKS[0])
    tail = rest.partition(MARKS[1])[2]
    TABLE.write_text(head + MARKS[0] + written + MARKS[1] + tail, encoding="utf-8")
    print(written)  # noqa: T201  # a command


if __name__ == "__main__":
    asyncio.run(main())
