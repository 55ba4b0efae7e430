"""The whole examination of one device: bench, three stories, verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from broker.conformance.answers import Desk
from broker.conformance.bench import Bench, Tls
from broker.conformance.cuts import Cuts
from broker.conformance.hostile import Hostile
from broker.conformance.line import Side
from broker.conformance.orderly import Orderly
from broker.conformance.power import Power, PowerFailed
from broker.conformance.sheet import Check, Sheet
from broker.conformance.story import Pace, Story, Unreached
from broker.reports.verdict import Verdict
from provisioner.model import BrokerAddress

Listen = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Subject:
    """The device under test, as it left the factory: its login, its client id, its activation key."""

    user: str
    password: str = field(repr=False)
    client_id: str
    activation_key: str = field(repr=False)
    root: str = "prov/v1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bench listens, and the name or address under which the device reaches it."""

    claims: Listen = ("127.0.0.1", 0)
    works: Listen = ("127.0.0.1", 0)
    host: str = "127.0.0.1"
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class Examined:
    """How it came out: a verdict for each check, what happened (a line an event), and how long it took in seconds."""

    verdicts: Sequence[Verdict]
    story: Sequence[str]
    seconds: float


async def examine(
    subject: Subject,
    place: Place,
    power: Power,
    pace: Pace,
    ready: Callable[[int, int], None] = lambda *_: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Examined:
    """Examine one device; `ready` is told both ports, `tell` what is going on. Raises OSError if it cannot listen."""
    clock = asyncio.get_running_loop().time
    began = clock()
    async with Bench(subject.user, subject.password, place.tls) as bench:
        claims = await bench.listen(Side.CLAIMS, *place.claims)
        works = await bench.listen(Side.WORKS, *place.works)
        ready(claims, works)
        scheme = "mqtts" if place.tls else "mqtt"
        address = BrokerAddress(f"{scheme}://{place.host}:{works}", place.tls.ca if place.tls else None)
        desk = Desk(subject.user, subject.client_id, subject.activation_key, subject.root, address)
        sheet = Sheet()
        stories = (
            Orderly(bench, desk, power, sheet, pace, 1),
            Hostile(bench, desk, power, sheet, pace, 2),
            Cuts(bench, desk, power, sheet, pace, 3),
        )
        whys = await _tell_all(stories, tell)
        if read := sum(story.messages for story in stories):
            sheet.passed(Check.CONTRACT, f"{read} messages were read, each by the contract")
        else:
            sheet.failed(Check.CONTRACT, whys or "it sent nothing")
        told = [f"{at - began:9.2f} s  {who:<16}  {what}" for at, who, what in bench.notes]
        return Examined(sheet.verdicts(whys or "the story did not come that far"), told, clock() - began)


async def _tell_all(stories: Sequence[Story], tell: Callable[[str], None]) -> str:
    """Why some story ended early, empty if none did."""
    whys: list[str] = []
    for number, story in enumerate(stories, 1):
        tell(f"Story {number} of {len(stories)}: {story.what}.")
        try:
            await story.tell()
        except (Unreached, PowerFailed) as error:
            tell(f"It ends here: {error}.")
            whys.append(str(error))
            if isinstance(error, PowerFailed):
                break
    return "; ".join(dict.fromkeys(whys))
