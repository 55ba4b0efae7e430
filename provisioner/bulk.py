"""Many devices in one call: the engine behind ProvisionEntities and behind imports.

1. Each row is read and planned first, against what is there and what the rows before it would make (`rowplans`); that
   is validation, and all of a dry run.
2. Planned rows are provisioned in order, some hundred in one transaction. A row is done whole (company, group, person,
   request, device, e-mail to send, line of the batch) or not at all, and the answer says which were done.
3. What may have changed since it was read (client ids in use, quotas, the request of a device) is looked at again
   inside the transaction: there it is exact, and a row that meets it is `Failed`.
4. Where wrong rows do not hold up the others, the next rows are planned while the ones before are being written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from provisioner.devices import Batch, DeviceLedger, Plan
from provisioner.elements import parse_element
from provisioner.errors import Invalid, Unavailable
from provisioner.handover import Vault
from provisioner.inventory import Accounts, Drafting, Stocktaking
from provisioner.model import Millis, Role
from provisioner.policy import Actor, check_role
from provisioner.ports import Entropy, Note
from provisioner.rowplans import Planner
from provisioner.verdicts import RowStatus, Verdict, summary

CHUNK = 512
"""Rows of one transaction: a block of `store.inserting`."""

MOST_ROWS = 5000
"""Rows of one call."""


@dataclass(frozen=True, slots=True)
class Options:
    """The seed's flags; for imports, whether existing devices may change, and whether rows need an e-mail address."""

    halt_on_provisioning_error: bool = False
    proceed_on_validation_error: bool = False
    validate_only: bool = False
    may_update: bool = True
    needs_email: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call. `success`: nothing was wrong; `message` a sentence. `batch_id`: what undoes it."""

    success: bool
    message: str
    verdicts: Sequence[Verdict]
    batch_id: int | None = None


class Bulk:
    """`mails`: whether e-mail can be sent here."""

    def __init__(
        self,
        ledger: DeviceLedger,
        accounts: Accounts,
        drafting: Drafting,
        vault: Vault,
        entropy: Entropy,
        *,
        mails: bool,
    ) -> None:
        self._ledger = ledger
        self._accounts = accounts
        self._drafting = drafting
        self._vault = vault
        self._entropy = entropy
        self._mails = mails
        self._stocktaking = Stocktaking(ledger, accounts, drafting, entropy)

    async def provision(
        self,
        actor: Actor,
        partner: int | str | None,
        rows: Sequence[Mapping[str, object]],
        options: Options,
        now: Millis,
        *,
        batch: Batch | None = None,
        first: int = 1,
    ) -> Outcome:
        """Validate rows and provision them, as `options` say; see the module. `first`: number of the first row.

        `partner`: account under which companies are, by id, name or uid; None: the operator's own. Raises `Forbidden`,
        `NotFound`, `Invalid` for what is wrong with the call itself.
        """
        check_role(actor, Role.PREPARER)
        if len(rows) > MOST_ROWS:
            raise Invalid("too-many-rows", f"send at most {MOST_ROWS} rows in one call", field="ProvisionElements")
        verdicts = [_read(number, row, needs_email=options.needs_email) for number, row in enumerate(rows, start=first)]
        elements = [verdict.element for verdict in verdicts if verdict.element is not None]
        inventory = await self._stocktaking.take(actor, partner, elements, now)
        planner = Planner(
            actor,
            inventory,
            self._accounts,
            self._drafting,
            self._vault,
            self._entropy,
            now,
            mails=self._mails,
            may_update=options.may_update,
        )
        ahead = iter(verdicts)
        goes_on = options.proceed_on_validation_error and not options.validate_only
        plans = await planner.plan(ahead, CHUNK if goes_on else MOST_ROWS)
        is_wrong = any(verdict.status is RowStatus.INVALID for verdict in verdicts)
        if options.validate_only or not plans or (is_wrong and not goes_on):
            return _outcome(verdicts, RowStatus.VALID)
        if batch is None:
            account_id = None if inventory.partner is None else inventory.partner.id
            batch = Batch(self._accounts.next_id(now), "ProvisionEntities", account_id, now, actor.token_id)
            await self._ledger.add_batch(batch)
        note = Note(now, "import", actor.token_id)
        await self._run(plans, planner, ahead, batch.id, note, halt=options.halt_on_provisioning_error)
        for verdict in verdicts:
            if verdict.status is RowStatus.VALID:
                verdict.status = RowStatus.NOT_PROCESSED
        return _outcome(verdicts, RowStatus.PROVISIONED, batch.id)

    async def _run(
        self,
        plans: list[Plan],
        planner: Planner,
        ahead: Iterator[Verdict],
        batch_id: int,
        note: Note,
        *,
        halt: bool,
    ) -> None:
        """Provision what is planned, and what is still ahead."""
        while plans:
            chunk, plans = plans[:CHUNK], plans[CHUNK:]
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(self._write(chunk, batch_id, note, halt=halt))
                plans = plans or await planner.plan(ahead, CHUNK)
            if not writing.result():
                await planner.plan(ahead, MOST_ROWS)  # these are not done, and still get their verdicts
                return

    async def _write(self, plans: Sequence[Plan], batch_id: int, note: Note, *, halt: bool) -> bool:
        """Provision rows in one transaction; whether to go on with the next."""
        try:
            looked = await self._ledger.provision(plans, batch_id, note, halt=halt)
        except Unavailable as trouble:
            # Nothing of these was done, and the next would fare no better.
            for plan in plans:
                plan.verdict.turn(RowStatus.FAILED, trouble.detail)
            return False
        for plan in plans[:looked]:
            if plan.problem:
                plan.verdict.turn(RowStatus.FAILED, plan.problem)
            else:
                plan.verdict.status = RowStatus.PROVISIONED
        return not (halt and any(plan.problem for plan in plans))


def _read(number: int, row: Mapping[str, object], *, needs_email: bool) -> Verdict:
    try:
        return Verdict(number, parse_element(row, needs_email=needs_email))
    except Invalid as refusal:
        verdict = Verdict(number, None)
        verdict.turn(RowStatus.INVALID, refusal.detail)
        return verdict


def _outcome(verdicts: Sequence[Verdict], good: RowStatus, batch_id: int | None = None) -> Outcome:
    for verdict in verdicts:
        verdict.close()
    return Outcome(all(verdict.status is good for verdict in verdicts), summary(verdicts), verdicts, batch_id)
