"""Each client of `examples/clients/` held against the recorded conversations of `examples/transcripts/`.

Most of them are of a bad day: replies lost, doubled, forged, a device broker that refuses. All of one client are played
at once, each to a unit and from a server of its own.
"""

import asyncio
from pathlib import Path

import pytest

from tests.broker.fleet import double
from tests.clients.examples import EVERY, IN_EVERY_MODE, Client, Device
from tests.clients.player import PASSWORD, Player
from tests.e2e.program import ROOT

TRANSCRIPTS = ROOT / "examples" / "transcripts"
BAD_DAYS = (
    "doubled-replies",
    "expired",
    "forged-replies",
    "lost-replies",
    "refused-logins",
    "superseded",
    "wait-and-forget",
)
HAND_OVERS = {"plain": "hand-over-plain", "proof": "hand-over-proof", "sealed": "hand-over-hpke"}

pytestmark = pytest.mark.timeout(240)  # compilers, interpreters, and pauses between messages


async def perform(client: Client, mode: str, name: str, folder: Path) -> list[str]:
    """What went wrong with one transcript."""
    async with Player(TRANSCRIPTS / f"{name}.jsonl") as player:
        login = {"user": double.USER, "password": PASSWORD, "clientId": double.CLIENT_ID, "activationKey": double.KEY}
        device = Device(client, folder / name, {"host": "127.0.0.1", "port": player.port, **login, "mode": mode})
        code = await device.run()
        faults = list(player.faults)
        if code != player.head.get("ends", 0):
            faults.append(f"it ended with {code}")
        if not player.is_over:
            faults.append("it ended before the transcript")
        if player.head.get("forgets") and device.factory.get("password"):
            faults.append("it kept the provisioning login")
    return [f"{name}: {fault} ({device.steps})" for fault in faults]


def test_every_transcript_is_played() -> None:
    files = {file.stem for file in TRANSCRIPTS.glob("*.jsonl")}
    assert files == {*BAD_DAYS, *HAND_OVERS.values(), "hand-over-ctr"}


@pytest.mark.parametrize(("client", "mode"), IN_EVERY_MODE, ids=lambda part: getattr(part, "name", part))
async def test_a_client_hands_over_as_recorded(tmp_path: Path, client: Client, mode: str) -> None:
    assert await perform(client, mode, HAND_OVERS[mode], tmp_path) == []


@pytest.mark.parametrize("client", EVERY, ids=lambda client: client.name)
async def test_a_client_gets_over_a_bad_day(tmp_path: Path, client: Client) -> None:
    client.command()
    found = await asyncio.gather(*(perform(client, "proof", name, tmp_path) for name in BAD_DAYS))
    assert [fault for faults in found for fault in faults] == []
