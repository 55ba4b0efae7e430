"""A factory floor for proofs: requests made ahead at the operator's door, and who is provisioned afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

from broker.fleet.actions import Identity
from broker.fleet.link import Link, Login, Lost
from broker.fleet.replies import Address, Credential
from tests.e2e.program import Operator, Program

_AT_ONCE = 16


async def prepare(operator: Operator, prefix: str, count: int, **fields: Any) -> list[Identity]:
    """Make requests for `count` devices whose client ids begin with `prefix`; `fields` are further ones of each."""
    account = await operator.account(f"of-{prefix}")
    user, password = (operator.program.data / "provision-login").read_text(encoding="utf-8").splitlines()
    numbers = iter(range(count))
    made: list[Identity] = []

    async def work() -> None:
        for number in numbers:
            form: dict[str, Any] = {
                "accountId": account,
                "clientId": f"{prefix}-{number:05}",
                "provisionUserUsername": user,
                "generateActivationKey": True,
                "provisionSecureURL": False,
            } | fields
            answer = await operator.ask("POST", "/v2/provisionRequests", json=form)
            made.append(Identity(user, password, answer["clientId"], answer["activationKey"]))

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())
    return made


async def phases(operator: Operator) -> Counter[str]:
    """How many requests are in each phase, all of them."""
    counted: Counter[str] = Counter()
    offset, more = 0, True
    while more:
        page = await operator.ask("GET", "/v2/provisionRequests", params={"offset": offset, "limit": 500})
        counted.update(one["phase"] for one in page["provisionRequest"])
        offset += len(page["provisionRequest"])
        more = page["limitExceeded"]
    return counted


async def admitted(program: Program, credentials: Iterable[Credential], at: tuple[str, int] | None = None) -> int:
    """How many credentials the device broker lets in (its own, or the one at `at`), with nothing in between."""
    address = Address(*(at or program.device_broker))
    waiting = iter(credentials)
    count = 0

    async def work() -> None:
        nonlocal count
        for credential in waiting:
            login = Login(credential.client_id, credential.username, credential.password)
            try:
                link = await Link.open(address, login)
            except Lost:
                continue
            await link.close()
            count += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())
    return count
