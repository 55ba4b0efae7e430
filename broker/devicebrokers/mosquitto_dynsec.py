"""Mosquitto by its dynamic security plug-in, 2.0 and 2.1.

1. A credential is a client of the plug-in, bound to its client id where it is tight, with a role of its own that is
   made before it and given in the command that creates it: no command touches a client or a role that is in use, which
   would close sessions. Both have the credential's user name; nobody else's names are touched.
2. Mosquitto 2.0 rewrites its whole list for each command and serves nobody meanwhile: one credential at a time, and
   half of the time is left to others. 2.1 rewrites it once a message: many at a time.
3. "Already exists" is an earlier try whose answer was lost: it stays as it is if it is as it should be.
4. An answer means that Mosquitto has it in memory; whether it could write its list only its own log tells. The look
   after each of its starts finds what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from broker.devicebrokers.accountfiles import is_ours
from broker.devicebrokers.batches import Batches, Change
from broker.devicebrokers.dynsec_control import Command, DynsecControl, Reply
from provisioner.errors import Unavailable
from provisioner.model import BrokerAddress, Coupling
from provisioner.ports import Cost, Install, Probe, Revoke, ToInstall
from provisioner.topics import grant_of

_BATCH = 200
_WRITES_ONCE = (2, 1)
"""The first version that rewrites its list once a message."""
_SECONDS_A_NAME = 5e-6
_LONG = 0.02
"""A write that stalls Mosquitto for longer, seconds, is followed by as long a pause."""
_THERE, _ABSENT = "already exists", "not found"

_log = structlog.get_logger(__name__)


class MosquittoDynsec:
    """A `DeviceBroker`. The addresses are what devices are told."""

    kind = "mosquitto-dynsec"
    sees_logins = False
    asks_ledger = False
    binds_client_id = True
    templates = False
    prehashed = False
    takes_passwords = True
    takes_certificates = False
    kicks_live = True
    persists = True

    def __init__(
        self, name: str, control: DynsecControl, *, plain: BrokerAddress | None, secure: BrokerAddress | None
    ) -> None:
        self.name = name
        self.plain = plain
        self.secure = secure
        self._control = control
        self._batches = Batches(name, self._write, 1)
        self._count = 0

    def address(self, *, secure: bool) -> BrokerAddress | None:
        """See `DeviceBroker`."""
        return self.secure if secure else self.plain

    def objection(self, account: str, client_id: str) -> str | None:  # noqa: ARG002  # every name will do
        """See `DeviceBroker`."""
        return None

    def delay(self, username: str) -> float:
        """See `DeviceBroker`."""
        return self._batches.delay(username)

    def cost(self, installs: int, revokes: int) -> Cost:
        """See `DeviceBroker`."""
        changes = installs + revokes
        writes = -(-changes // _BATCH) if self._writes_once() else 2 * changes
        stall = writes * self._count * _SECONDS_A_NAME
        return Cost(
            sessions=revokes, stall=stall, rewrites=writes, duration=max(2 * stall, changes * self._batches.each)
        )

    async def probe(self) -> Probe:
        """See `DeviceBroker`."""
        [reply] = await self._control.run([{"command": "getDefaultACLAccess"}])
        problems = []
        if (error := reply.get("error")) is not None:
            problems.append(f"The plug-in says {error!r}: give login_file's user the right to $CONTROL topics.")
        problems += [
            f"Every client may use every topic ({acl['acltype']} is allowed by default): "
            f"mosquitto_ctrl dynsec setDefaultACLAccess {acl['acltype']} deny."
            for acl in reply.get("data", {}).get("acls", [])
            if acl.get("acltype") in ("publishClientSend", "subscribe") and acl.get("allow")
        ]
        version = ".".join(str(number) for number in self._control.version)
        return Probe(f"Mosquitto {version}".rstrip(), tuple(problems))

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        """See `DeviceBroker`."""
        return await self._batches.install(items)

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        """See `DeviceBroker`."""
        return await self._batches.revoke(usernames, kick=kick)

    async def list(self) -> Sequence[str]:
        """See `DeviceBroker`."""
        names = await self._control.usernames()
        self._count = len(names)
        return [name for name in names if is_ours(name)]

    async def close(self) -> None:
        """See `DeviceBroker`."""
        await self._batches.close()
        await self._control.close()

    async def pulse(self) -> object:
        """Changes with each connection. Raises `Unavailable`."""
        return await self._control.ping()

    def _writes_once(self) -> bool:
        return self._control.version >= _WRITES_ONCE

    async def _write(self, changes: Sequence[Change]) -> None:
        await self._control.connect()
        self._batches.most = _BATCH if self._writes_once() else 1
        began = time.monotonic()
        replies = iter(await self._control.run([command for change in changes for command in _commands(change)]))
        took = time.monotonic() - began
        if not self._writes_once() and took > _LONG:
            self._batches.not_before = time.monotonic() + took
        for change in changes:
            of_role, of_client = next(replies), next(replies)
            if change.item is None:
                change.outcome = self._gone(of_role, of_client)
            else:
                change.outcome = await self._settled(change.item, of_role, of_client)

    def _gone(self, *replies: Reply) -> Revoke:
        errors = [error for error in map(_error, replies) if error is not None and not error.endswith(_ABSENT)]
        if not errors:
            return Revoke.CLOSED
        _log.warning("not revoked", device_broker=self.name, errors=errors)
        return Revoke.LATER

    async def _settled(self, item: ToInstall, of_role: Reply, of_client: Reply) -> Install:
        errors = {_error(of_role), _error(of_client)} - {None}
        if not errors:
            self._count += 1
            return Install.DONE
        if not all(str(error).endswith(_THERE) for error in errors):
            _log.warning("not installed", device_broker=self.name, username=item.credential.username, errors=errors)
            return Install.LATER
        if _error(of_client) is None:  # a role that was left over
            return Install.DONE
        return await self._kept_or_mended(item)

    async def _kept_or_mended(self, item: ToInstall) -> Install:
        wanted = _client(item)
        [reply] = await self._control.run([{"command": "getClient", "username": wanted["username"]}])
        there = reply.get("data", {}).get("client", {})
        roles = [one.get("rolename") for one in there.get("roles", [])]
        if (
            there.get("clientid", "") == wanted.get("clientid", "")
            and roles == [wanted["username"]]
            and not there.get("disabled", False)
        ):
            return Install.DONE
        [deleted, created] = await self._control.run(
            [{"command": "deleteClient", "username": wanted["username"]}, wanted | {"command": "createClient"}]
        )
        if _error(deleted) is None and _error(created) is None:
            return Install.DONE
        raise Unavailable(f"the plug-in refuses {wanted['username']}: {_error(deleted) or _error(created)}")


def _error(reply: Reply) -> str | None:
    return None if reply.get("error") is None else str(reply["error"])


def _client(item: ToInstall) -> Command:
    credential = item.credential
    bound = {"clientid": credential.client_id} if credential.coupling is Coupling.STRICT else {}
    return {
        "username": credential.username,
        "password": item.password.reveal(),
        "roles": [{"rolename": credential.username}],
        **bound,
    }


def _commands(change: Change) -> tuple[Command, Command]:
    """The role's and the client's, in this order where they are made and where they go."""
    username = change.username
    if change.item is None:
        # The role without its client closes no session, but the client without its role would live on.
        return {"command": "deleteClient", "username": username}, {"command": "deleteRole", "rolename": username}
    credential = change.item.credential
    grant = grant_of(credential, credential.client_id)
    acls = [
        *({"acltype": "publishClientSend", "topic": one, "allow": True} for one in grant.publish),
        *(
            {"acltype": kind, "topic": one, "allow": True}
            for one in grant.subscribe
            for kind in ("subscribePattern", "unsubscribePattern", "publishClientReceive")
        ),
    ]
    role = {"command": "createRole", "rolename": username, "acls": acls}
    return role, _client(change.item) | {"command": "createClient"}
