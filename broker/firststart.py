"""What a fresh ledger gets so that the first minute works: two accounts, a provisioning login, an operator token.

1. It happens once, on an empty ledger. Whoever later deletes what it made will not find it back.
2. A note in the data directory stands from before the first step to after the last. A start that finds it does what is
   missing; secrets that were made but perhaps never written down are made again, which is safe: nothing listened yet.
"""

from __future__ import annotations

from broker.datadir import DataDir
from provisioner.administration import Administration
from provisioner.entities import NewAccount
from provisioner.model import AccountKind, Millis, Role
from provisioner.policy import Actor

TARGET_ACCOUNT = "default"
USER = "factory"
LOGIN_FILE = "provision-login"
TOKEN_FILE = "admin-token"  # noqa: S105  # a file's name
_NOTE = "first-start"
_TOKEN_NAME = "admin"  # noqa: S105  # a token's name
_NOBODY = Actor(token_id=0, role=Role.ADMIN)


async def complete(administration: Administration, directory: DataDir, provision_account: str, now: Millis) -> bool:
    """Do what a fresh ledger needs; True: something was done."""
    begun = directory.load_secret(_NOTE) is not None
    accounts = {account.name: account for account in await administration.list_accounts(_NOBODY)}
    if accounts and not begun:
        return False
    directory.save_secret(_NOTE, "the first start was interrupted; the next one completes it")
    wanted = {TARGET_ACCOUNT: AccountKind.TARGET, provision_account: AccountKind.PROVISION}
    for name, kind in wanted.items():
        if name not in accounts:
            await administration.create_account(_NOBODY, NewAccount(name, kind), now)
    await _make_login(administration, directory, provision_account, now)
    await _make_token(administration, directory, now)
    directory.delete_secret(_NOTE)
    return True


async def _make_login(administration: Administration, directory: DataDir, account: str, now: Millis) -> None:
    users = [user for user in await administration.list_users(_NOBODY) if user.username == USER]
    if users:
        password = await administration.set_user_password(_NOBODY, users[0].id, None, now)
    else:
        _, password = await administration.create_user(_NOBODY, USER, None, account, now)
    if password is not None:
        directory.save_secret(LOGIN_FILE, f"{USER}\n{password.reveal()}")


async def _make_token(administration: Administration, directory: DataDir, now: Millis) -> None:
    for token in await administration.list_tokens(_NOBODY):
        if token.name == _TOKEN_NAME:
            await administration.delete_token(_NOBODY, token.id, now)
    _, text = await administration.create_token(_NOBODY, _TOKEN_NAME, Role.ADMIN, None, now)
    directory.save_secret(TOKEN_FILE, text.reveal())
