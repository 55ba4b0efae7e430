"""The provisioning logins: who may connect to the provision broker at all.

1. One answer for unknown user and wrong password (see `passwords`).
2. Known users are remembered, as every CONNECT asks; whoever changes one tells `forget`.
"""

from __future__ import annotations

from collections import OrderedDict

from provisioner.model import User
from provisioner.passwords import GENERATED, Passwords
from provisioner.ports import Store

_REMEMBERED = 4096


class Logins:
    """Verifies provisioning logins against the store."""

    def __init__(self, store: Store, passwords: Passwords) -> None:
        self._store = store
        self._passwords = passwords
        self._users: OrderedDict[str, User] = OrderedDict()
        self._any_slow: bool | None = None

    async def verify(self, username: str, password: bytes) -> bool:
        """Whether this is a provisioning login. Raises `Unavailable`."""
        if self._any_slow is None:
            users = await self._store.list_users()
            self._any_slow = any(not user.password_hash.startswith(GENERATED) for user in users)
        user = self._users.get(username)
        if user is None:
            user = await self._store.find_user(username)
            if user is not None:
                self._users[username] = user
                if len(self._users) > _REMEMBERED:
                    self._users.popitem(last=False)
        stored = None if user is None else user.password_hash
        return await self._passwords.verify(stored, password, slow_refusals=self._any_slow)

    def forget(self) -> None:
        """A user was added or changed."""
        self._users.clear()
        self._any_slow = None
