"""The provisioning logins: who may connect to the provision broker at all.

1. One answer for unknown user and wrong password (see `passwords`), and the same work: both are looked up in memory.
2. All users are kept there, as every CONNECT asks and there are few of them; whoever changes one tells `forget`.
"""

from __future__ import annotations

from provisioner.model import User
from provisioner.passwords import GENERATED, Passwords
from provisioner.ports import Store


class Logins:
    """Verifies provisioning logins against the store."""

    def __init__(self, store: Store, passwords: Passwords) -> None:
        self._store = store
        self._passwords = passwords
        self._users: dict[str, User] | None = None
        self._any_slow = False
        self._version = 0

    async def verify(self, username: str, password: bytes) -> bool:
        """Whether this is a provisioning login. Raises `Unavailable`."""
        users = self._users
        if users is None:
            users = await self._load()
        user = users.get(username)
        stored = None if user is None else user.password_hash
        return await self._passwords.verify(stored, password, slow_refusals=self._any_slow)

    def forget(self) -> None:
        """A user was added or changed."""
        self._users = None
        self._version += 1

    async def _load(self) -> dict[str, User]:
        version = self._version
        users = {user.username: user for user in await self._store.list_users()}
        if version == self._version:  # else somebody was changed meanwhile, and the next login loads anew
            self._users = users
            self._any_slow = any(not user.password_hash.startswith(GENERATED) for user in users.values())
        return users
