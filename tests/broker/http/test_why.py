"""`why` says what a right claim would be answered, in every state, and changes nothing."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from provisioner.errors import Reason, Rejected, Unavailable
from provisioner.model import Claim, Result, Role, Secret
from tests.broker.http.world import HERE, PATH, Operator, World

Prepare = Callable[["Case"], Awaitable[None]]


class Case:
    """One request in some state."""

    def __init__(self, world: World, admin: Operator, created: dict[str, Any]) -> None:
        self.world = world
        self.admin = admin
        self.created = created
        self.path = f"{PATH}/{created['id']}"

    async def verb(self, name: str, body: Any = None) -> None:
        said = await self.admin.ask(200, "POST", f"{self.path}/{name}", body)
        self.created["activationKey"] = said.get("activationKey", self.created["activationKey"])

    async def change(self, **fields: Any) -> None:
        now = await self.admin.get(self.path)
        await self.admin.ask(200, "PUT", self.path, {"optlock": now["optlock"], **fields})

    async def claim(self, request_id: str = "r-1") -> None:
        user, key = self.created["provisionUserUsername"], Secret(self.created["activationKey"])
        await self.world.provisioner.claim(Claim(user, "dev-1", request_id, HERE, key=key), self.world.now)

    async def confirm(self) -> None:
        await self.claim()
        await self.world.report(self.created, Result.STORED)

    async def settle(self) -> None:
        while await self.world.jobs.step(self.world.now) <= self.world.now:
            pass

    async def answered(self) -> Reason:
        """What a right claim with a requestId of its own is answered."""
        try:
            await self.claim("r-fresh")
        except Rejected as refusal:
            return refusal.reason
        except Unavailable:
            return Reason.UNAVAILABLE
        return Reason.OFFER


async def as_created(_case: Case) -> None:
    """Nothing more."""


async def disabled(case: Case) -> None:
    await case.verb("disable")


async def not_yet(case: Case) -> None:
    await case.change(activatesOn=case.world.now + 1000)


async def lapsed(case: Case) -> None:
    await case.change(expiresOn=case.world.now + 1)
    case.world.now += 1


async def expired(case: Case) -> None:
    await lapsed(case)
    await case.settle()


async def stopped(case: Case) -> None:
    await case.verb("stop")


async def offered(case: Case) -> None:
    await case.claim()


async def unconfirmed(case: Case) -> None:
    await case.claim()
    case.world.now += 3_600_000


async def retiring(case: Case) -> None:
    await case.claim()
    await case.world.report(case.created, Result.FAILED)


async def used_up(case: Case) -> None:
    await case.change(retryMaxAttempts=1)
    await retiring(case)
    await case.settle()


async def confirmed(case: Case) -> None:
    await case.confirm()


async def to_be_rotated(case: Case) -> None:
    await case.confirm()
    await case.verb("rotate")


async def revoked(case: Case) -> None:
    await case.confirm()
    await case.verb("revoke")
    await case.settle()


async def reopened(case: Case) -> None:
    await case.confirm()
    await case.verb("reopen", {"generateActivationKey": True})
    await case.settle()


async def away(case: Case) -> None:
    case.world.shelf.is_away = True
    with pytest.raises(Rejected, match="wait"):
        await case.claim()


async def nowhere(case: Case) -> None:
    case.world.shelf.is_listening = False


STATES: list[tuple[Prepare, Reason, str, str]] = [
    (as_created, Reason.OFFER, "", ""),
    (disabled, Reason.DISABLED, "enabled", "provisioner request enable dev-1"),
    (not_yet, Reason.NOT_ACTIVE, "window", "change activatesOn"),
    (lapsed, Reason.EXPIRED, "window", "later expiresOn"),
    (expired, Reason.EXPIRED, "open", "provisioner request reopen dev-1 --expires WHEN"),
    (stopped, Reason.ABANDONED, "open", "provisioner request reopen dev-1"),
    (offered, Reason.OFFER, "", ""),
    (unconfirmed, Reason.WAIT, "offer", "wait a moment"),
    (retiring, Reason.WAIT, "retired", "wait a moment"),
    (used_up, Reason.ABANDONED, "open", "provisioner request reopen dev-1"),
    (confirmed, Reason.ALREADY_PROVISIONED, "needed", "provisioner request rotate dev-1"),
    (to_be_rotated, Reason.OFFER, "", ""),
    (revoked, Reason.ABANDONED, "open", "provisioner request reopen dev-1"),
    (reopened, Reason.OFFER, "", ""),
    (away, Reason.WAIT, "offer", "provisioner drift"),
    (nowhere, Reason.UNAVAILABLE, "install", "listen or url"),
]


@pytest.mark.parametrize(("prepare", "reason", "failing", "cure"), STATES, ids=lambda one: getattr(one, "__name__", ""))
async def test_in_every_state_the_verdict_is_the_answer(
    admin: Operator, world: World, prepare: Prepare, reason: Reason, failing: str, cure: str
) -> None:
    case = Case(world, admin, await admin.create("dev-1"))
    await prepare(case)
    before = await admin.get(case.path)
    told = await admin.get("/v2/why", clientId="dev-1")
    assert await admin.get(f"{case.path}/why") == told
    assert await admin.get(case.path) == before  # nothing was changed
    assert (told["reason"], told["code"], told["requestId"]) == (reason, reason.code, case.created["id"])
    assert await case.answered() is reason
    *passed, last = told["test"]
    assert all(test["passed"] and not test["cure"] for test in passed)
    if failing:
        assert (last["name"], last["passed"]) == (failing, False)
        assert cure in last["cure"]
    else:
        assert last["passed"]


async def test_a_former_request_is_told_which_one_counts(admin: Operator, world: World) -> None:
    former = await admin.create("dev-1")
    await Case(world, admin, former).verb("stop")
    await admin.create("dev-1")
    told = await admin.get(f"{PATH}/{former['id']}/why")
    assert (told["reason"], told["test"][-1]["name"]) == ("denied", "match")
    assert "a newer request" in told["test"][-1]["detail"]
    assert (await admin.get("/v2/why", clientId="dev-1"))["reason"] == "offer"


async def test_a_former_credential_on_its_way_out_is_told(admin: Operator, world: World) -> None:
    await Case(world, admin, await admin.create("dev-1")).confirm()
    world.shelf.is_away = True
    await admin.create("dev-1", overwriteIfDuplicate=True)
    told = await admin.get("/v2/why", clientId="dev-1")
    assert (told["reason"], told["test"][-1]["name"]) == ("wait", "free")


async def test_a_job_that_fails_is_told_with_where_to_read_why(admin: Operator, world: World) -> None:
    await away(Case(world, admin, await admin.create("dev-1")))
    told = await admin.get("/v2/why", clientId="dev-1")
    assert told["test"][-1]["detail"] == (
        "its credential is not in the device broker yet; failed attempts: 1, provisioner request log dev-1 tells why"
    )


async def test_a_device_that_nobody_knows(admin: Operator, world: World) -> None:
    told = await admin.get("/v2/why", clientId="dev-9")
    assert (told["reason"], told["test"][0]["name"], told["refusal"]) == ("denied", "match", [])
    assert told["test"][0]["cure"].startswith("provisioner request create dev-9")
    await admin.refused(400, "invalid-identifier", "GET", "/v2/why?clientId=a%20b")
    await admin.refused(404, "no-such-request", "GET", f"{PATH}/7/why")


async def test_the_last_refusals_are_told_newest_first(admin: Operator, world: World) -> None:
    created = await admin.create("dev-1", serialNumber="S-1", brand="b")
    wrong = created | {"activationKey": "0123456789ABCDEFGHIJKLMNOPQRSTUV"}
    with pytest.raises(Rejected):
        await world.claim(wrong)
    with pytest.raises(Rejected):
        await world.claim(created, {"serialNumber": "S-2"})
    await world.jobs.step(world.now)
    told = await admin.get("/v2/why", clientId="dev-1")
    assert [(one["source"], one["cause"]) for one in told["refusal"]] == [
        ("127.0.0.1", "denied"),
        ("127.0.0.1", "the unit's facts contradict the request"),
    ]
    facts = next(test for test in told["test"] if test["name"] == "facts")
    assert facts["detail"] == (
        "the unit must not say otherwise than serialNumber S-1, brand b; refused last: the unit's serialNumber is not "
        "the one of its request"
    )


async def test_an_operator_is_told_of_its_own_devices_only(admin: Operator, world: World) -> None:
    created = await admin.create("dev-1", "globex")
    with pytest.raises(Rejected):
        await world.claim(created | {"activationKey": "0123456789ABCDEFGHIJKLMNOPQRSTUV"})
    await world.jobs.step(world.now)
    acme = await world.operator(Role.INSTALLER, "acme")
    told = await acme.get("/v2/why", clientId="dev-1")
    assert (told.get("requestId"), told["refusal"]) == (None, [])
    await acme.refused(404, "no-such-request", "GET", f"{PATH}/{created['id']}/why")
    assert len((await (await world.operator(Role.VIEWER, "globex")).get("/v2/why", clientId="dev-1"))["refusal"]) == 1
