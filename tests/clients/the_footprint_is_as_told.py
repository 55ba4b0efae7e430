"""The table in the README of the clients is what `make footprint` measures, where this machine can measure it."""

import re
from pathlib import Path

import pytest

from tests.clients import footprint
from tests.clients.examples import IN_EVERY_MODE, Client
from tests.programs import needed

pytestmark = pytest.mark.timeout(240)
TOLD = footprint.TABLE.read_text(encoding="utf-8").partition(footprint.MARKS[0])[2]


def told(row: str) -> list[int]:
    """The numbers of a row that begins like this."""
    found = re.search(rf"(?m)^\| {re.escape(row)} \| (.*) \|$", TOLD)
    assert found, f"no row for {row}: run `make footprint`"
    return [int(number.replace(",", "")) for number in found[1].split(" | ")]


@pytest.mark.parametrize(("client", "mode"), IN_EVERY_MODE, ids=lambda part: getattr(part, "name", part))
async def test_the_bytes_on_the_wire(tmp_path: Path, client: Client, mode: str) -> None:
    measured = await footprint.hand_over(client, mode, tmp_path / "unit")
    # The port in the offer has four or five digits, and the goodbye may come too late to be counted.
    assert [measured.up, measured.down] == pytest.approx(told(f"{client.name} | {mode}"), abs=8)


@pytest.mark.parametrize(("row", "options"), [("plain and proof", ()), ("plain alone", ("-DPROVISION_PLAIN_ONLY",))])
def test_the_size_of_the_c_client(row: str, options: tuple[str, ...]) -> None:
    size = footprint.measure_size((needed("gcc", "gcc"),), *options)
    # Compilers differ; a client that grew by a tenth is another one.
    assert [size.flash, size.ram, size.stack] == pytest.approx(told(f"x86-64, {row}"), rel=0.1)
