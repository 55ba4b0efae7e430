"""Somebody else is always quicker: whoever commits after what it read was changed starts over, and gives up in the end.

A stale unit changes nothing (`service`, rule 2); what is tested here is that no use case turns for ever, and that an
operator is told so in a word, a device to come later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from certs.keys import P256, generate
from provisioner.creation import NewRequest
from provisioner.entities import NewAccount
from provisioner.errors import Conflict, ProvisionerError, Unavailable
from provisioner.lifecycle import Phase
from provisioner.model import AccountKind, ProvisionRequest, Result
from provisioner.ports import Note
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


async def test_a_request_that_changed_since_it_was_read_is_not_moved(world: World) -> None:
    request = (await world.request()).request
    account = await world.administration.create_account(ADMIN, NewAccount("globex", AccountKind.TARGET), START)
    await world.administration.disable(ADMIN, request.id, START)
    with pytest.raises(Conflict) as told:
        await world.administration.move(ADMIN, request, account, {}, START)
    assert told.value.code == "busy"
    moved = await world.administration.move(ADMIN, await world.read(request.id), account, {}, START)
    assert moved.account_name == "globex"


async def test_neither_half_of_a_succession_is_there_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    former = (await world.request("dev-1")).request
    successor = NewRequest(account="acme", client_id="dev-2", username="factory")
    note = Note(START, "succeed")
    with monkeypatch.context() as patched:
        Outrun(world, patched)
        with pytest.raises(Conflict) as told:
            await world.administration.succeed(ADMIN, former, successor, {}, note)
        assert told.value.code == "busy"
    assert (await world.read(former.id)).phase is Phase.PENDING
    after = await world.administration.succeed(ADMIN, former, successor, {}, note)
    assert (await world.read(former.id)).phase is Phase.STOPPED
    assert (await world.read(after.id)).phase is Phase.PENDING


async def test_what_is_over_is_ended_by_nothing_more(world: World) -> None:
    request = (await world.request()).request
    await world.administration.end(ADMIN, request, START)
    stopped = await world.read(request.id)
    await world.administration.end(ADMIN, stopped, START)
    assert await world.read(request.id) == stopped
