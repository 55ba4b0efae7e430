"""The `DpsLedger` on SQLite: registration groups, schemas of master data, and how devices are found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from provisioner.dps import Group, MasterDataGroup, Reprovisioning
from provisioner.expressions import Operator, Term
from provisioner.masterdata import DataType, Datum
from provisioner.model import Millis, ProvisionRequest
from provisioner.ports import Note
from provisioner.store.labelrows import Change, Read
from provisioner.store.statements import read_request


class SqliteDps:
    """See the module; the store that owns the connections hands it out."""

    def __init__(self, read: Read, change: Change) -> None:
        self._read = read
        self._change = change

    async def add_master_data_group(self, group: MasterDataGroup, note: Note) -> None:
        """See `DpsLedger`."""
        schema = {name: asdict(datum) for name, datum in group.schema.items()}
        values = {"id": group.id, "account_id": group.account_id, "name": group.name, "schema": json.dumps(schema)}
        await self._change("add_master_data_group", values, note)

    async def find_master_data_groups(self, group_id: str | None = None) -> Sequence[MasterDataGroup]:
        """See `DpsLedger`."""
        rows = await self._read("find_master_data_groups", {"id": group_id})
        return [MasterDataGroup(row[0], row[1], row[2], _schema(row[3])) for row in rows]

    async def delete_master_data_group(self, group_id: str, note: Note) -> None:
        """See `DpsLedger`."""
        await self._change("delete_master_data_group", {"id": group_id}, note)

    async def add_group(self, group: Group, note: Note) -> None:
        """See `DpsLedger`."""
        await self._change("add_registration_group", asdict(group), note)

    async def find_groups(self, group_id: str | None = None) -> Sequence[Group]:
        """See `DpsLedger`."""
        rows = await self._read("find_registration_groups", {"id": group_id})
        return [Group(row[0], row[1], row[2], row[3], row[4], row[5], row[6], Reprovisioning(row[7])) for row in rows]

    async def delete_group(self, group_id: str, note: Note) -> None:
        """See `DpsLedger`."""
        await self._change("delete_registration_group", {"id": group_id}, note)

    async def next_batch(self, group_id: str) -> int:
        """See `DpsLedger`."""
        return int((await self._change("next_batch", {"id": group_id}))[0][0])

    async def find_devices(
        self, wanted: Sequence[Term], accounts: Sequence[int] | None, offset: int, limit: int
    ) -> Sequence[ProvisionRequest]:
        """See `DpsLedger`."""
        values = {
            "accounts": None if accounts is None else json.dumps(list(accounts)),
            "offset": offset,
            "limit": limit,
            "terms": json.dumps([_term(one) for one in wanted]),
        }
        named = next((one.values for one in wanted if one.field == "sn" and one.operator is Operator.IN), None)
        if named is None:
            return [read_request(row) for row in await self._read("find_registered", values)]
        rows = await self._read("find_registered_as", values | {"sns": json.dumps(named)})
        return [read_request(row) for row in rows]

    async def find_times(self, request_ids: Sequence[int]) -> Mapping[int, tuple[Millis | None, Millis | None]]:
        """See `DpsLedger`."""
        rows = await self._read("find_times", {"ids": json.dumps(list(request_ids))})
        return {row[0]: (row[1], row[2]) for row in rows}


_PATHS = {"groupId": "$.group_id", "regionId": "$.region_id", "productKey": "$.product_key",
          "batchOrder": "$.batch_order"}  # fmt: skip


def _term(term: Term) -> dict[str, Any]:
    values = [_pattern(str(one)) if term.operator is Operator.LIKE else one for one in term.values]
    name = term.field.removeprefix("deviceData.")
    path = _PATHS.get(term.field, f"$.data.{name}") if name != "*" else "$.data"
    return {"field": term.field, "path": path, "operator": term.operator.value, "values": values}


def _pattern(text: str) -> str:
    text = text.replace("!", "!!")
    return text if "%" in text or "_" in text else f"%{text}%"


def _schema(text: str) -> dict[str, Datum]:
    return {name: Datum(DataType(one["type"]), tuple(one["options"])) for name, one in json.loads(text).items()}
