"""Somebody else is always quicker: whoever commits after what it read was changed starts over, and gives up in the end.

A stale unit changes nothing (`service`, rule 2); what is tested here is that no use case turns for ever, and that an
operator is told so in a word, a device to come later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from certs.keys import P256, generate
from provisioner.errors import Conflict, ProvisionerError, Unavailable
from provisioner.model import ProvisionRequest, Result
from tests.provisioner.conftest import ADMIN, START, World
from tests.provisioner.test_certificates import csr_of, der_of, prescribed

Verb = Callable[[World, ProvisionRequest], Awaitable[object]]

OPEN: dict[str, Verb] = {
    "change": lambda world, request: world.administration.update_request(
        ADMIN, request.id, request.optlock, {"device_name": "pump"}, START
    ),
    "switch off": lambda world, request: world.administration.disable(ADMIN, request.id, START),
    "stop": lambda world, request: world.administration.stop(ADMIN, request.id, START),
    "delete": lambda world, request: world.administration.delete_request(ADMIN, request.id, START),
}
CONFIRMED: dict[str, Verb] = {
    "revoke": lambda world, request: world.administration.revoke(ADMIN, request.id, START),
    "rotate": lambda world, request: world.administration.rotate(ADMIN, request.id, START),
    "reopen": lambda world, request: world.administration.reopen(ADMIN, request.id, START),
}


class Outrun:
    """A ledger in which somebody else is always quicker; `tries` counts what was turned down."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tries = 0
        for verb in ("commit", "delete_request"):
            monkeypatch.setattr(world.store, verb, self.turn_down)

    async def turn_down(self, *_: object) -> bool:
        """Nothing was written: it changed since it was read."""
        self.tries += 1
        return False


async def given_up(outrun: Outrun, work: Awaitable[object], kind: type[ProvisionerError]) -> ProvisionerError:
    """What is said in the end, after a few tries and not many."""
    with pytest.raises(kind) as told:
        await work
    assert 1 < outrun.tries <= 64
    return told.value


@pytest.mark.parametrize("verb", OPEN)
async def test_an_operator_is_told_that_an_open_request_is_busy(
    world: World, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    request = (await world.request()).request
    outrun = Outrun(world, monkeypatch)
    told = await given_up(outrun, OPEN[verb](world, request), Conflict)
    assert isinstance(told, Conflict)
    assert told.code == "busy"


@pytest.mark.parametrize("verb", CONFIRMED)
async def test_an_operator_is_told_that_a_confirmed_request_is_busy(
    world: World, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    created = await world.request()
    await world.device(created).claim()
    await world.device(created).ack()
    request = await world.read(created.request.id)
    told = await given_up(Outrun(world, monkeypatch), CONFIRMED[verb](world, request), Conflict)
    assert isinstance(told, Conflict)
    assert told.code == "busy"


async def test_a_device_is_told_to_claim_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    created = await world.request()
    told = await given_up(Outrun(world, monkeypatch), world.device(created).claim(), Unavailable)
    assert isinstance(told, Unavailable)
    assert told.retry_after <= 5


@pytest.mark.parametrize("result", [Result.STORED, Result.FAILED])
async def test_a_device_is_told_to_acknowledge_later(
    world: World, monkeypatch: pytest.MonkeyPatch, result: Result
) -> None:
    created = await world.request()
    await world.device(created).claim()
    await given_up(Outrun(world, monkeypatch), world.device(created).ack(result=result), Unavailable)


async def test_a_first_login_is_neither_admitted_nor_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    created = await world.request()
    offer = await world.device(created).claim()
    await given_up(Outrun(world, monkeypatch), world.login(offer), Unavailable)


async def test_a_first_login_by_certificate_is_neither_admitted_nor_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, device = await prescribed(world)
    offer = await device.claim(csr=csr_of(generate(P256)))
    login = world.provisioner.certificate_login("embedded", der_of(offer), "dev-1", world.now)
    await given_up(Outrun(world, monkeypatch), login, Unavailable)
