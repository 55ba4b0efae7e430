"""What is kept beside requests (devices, people, groups, batches), and the ledger of it.

`store.devicerows` is the ledger on SQLite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from provisioner.model import Account, Millis, ProvisionRequest
from provisioner.ports import Note, Saved
from provisioner.verdicts import Verdict


class Group(NamedTuple):
    """A user group of an account."""

    id: int
    account_id: int
    name: str


class Contact(NamedTuple):
    """A person, by e-mail address, in one account."""

    id: int
    account_id: int
    email: str
    first_name: str = ""
    last_name: str = ""
    custom1: str = ""
    custom2: str = ""
    custom3: str = ""


class Device(NamedTuple):
    """What is kept beside a request."""

    device_id: str
    request_id: int
    contact_id: int | None
    group_id: int
    policy_name: str
    storage_gb: int
    custom1: str = ""
    custom2: str = ""
    custom3: str = ""


class Batch(NamedTuple):
    """Rows that came together."""

    id: int
    name: str
    account_id: int | None
    created_on: Millis
    created_by: int


class BatchRow(NamedTuple):
    """What a batch did to a device. `optlock` is that of the request afterwards.

    `former`: JSON of the device's row and name as they were; None: the batch made it.
    """

    batch_id: int
    number: int
    device_id: str
    request_id: int
    optlock: int
    former: str | None


class Mail(NamedTuple):
    """An activation e-mail that is to be sent; `attempts` counts this one."""

    request_id: int
    email: str
    attempts: int


@dataclass(frozen=True, slots=True)
class There:
    """What is there of that which rows name."""

    groups: Sequence[Group]
    contacts: Sequence[Contact]
    devices: Sequence[tuple[Device, ProvisionRequest]]
    open_client_ids: frozenset[str]
    open_units: frozenset[str]


@dataclass(slots=True)
class Plan:
    """A row that may be provisioned. `former` None: a new device. The values are as they shall be."""

    verdict: Verdict
    company: Account
    group: Group
    contact: Contact | None
    device: Device
    request: ProvisionRequest
    former: tuple[Device, ProvisionRequest] | None = None
    mail: str | None = None
    problem: str = ""

    @property
    def saved(self) -> Saved | None:
        """The change of a request that it makes; None: none, or a new one."""
        if self.former is None or self.former[1] is self.request:
            return None
        return Saved(self.former[1], self.request)


class DeviceLedger(Protocol):
    """Where devices, people, groups and batches are kept."""

    async def find(
        self,
        accounts: Sequence[int],
        emails: Sequence[str],
        device_ids: Sequence[str],
        client_ids: Sequence[str],
        units: Sequence[str],
    ) -> There:
        """What is there of these; `units` are serial numbers, and MAC addresses in their normal form."""

    async def provision(self, plans: Sequence[Plan], batch_id: int, note: Note, *, halt: bool) -> int:
        """Provision rows in order, in one transaction; each plan's `problem` says why not. How many were looked at."""

    async def add_batch(self, batch: Batch) -> None:
        """A batch without rows."""

    async def find_batch(self, batch_id: int) -> Batch | None:
        """One batch."""

    async def list_batches(self, accounts: Sequence[int] | None, limit: int) -> Sequence[tuple[Batch, int]]:
        """Batches, newest first, and how many rows of each could still be undone."""

    async def list_batch_rows(self, batch_id: int, before: int, limit: int) -> Sequence[BatchRow]:
        """Rows of a batch in front of that number, the last one first."""

    async def undo(self, rows: Sequence[BatchRow], note: Note) -> Sequence[BatchRow]:
        """Take rows back, in one transaction, but for those of which something came since; which ones were."""

    async def list_devices(
        self, accounts: Sequence[int] | None, batch_id: int | None, after: str, limit: int
    ) -> Sequence[tuple[Device, ProvisionRequest, Group, Contact | None]]:
        """Devices by id, those behind `after`; of these accounts, and of one batch, where that is said."""
