"""Accounts, provision users and operator tokens: what provision requests hang on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from provisioner import policy
from provisioner.attachments import Attachments
from provisioner.errors import Conflict, Forbidden, Invalid, NotFound
from provisioner.handover import Vault, new_text
from provisioner.labels import LabelDesk
from provisioner.learning import Learning
from provisioner.logins import Logins
from provisioner.model import Account, AccountKind, Coupling, Millis, Role, Secret, Token, User
from provisioner.passwords import Passwords
from provisioner.policies import PolicyDesk
from provisioner.policy import Actor, check_role
from provisioner.ports import DeviceBroker, Entropy, Note, Store

_EPOCH = 1_577_836_800_000
"""2020-01-01: ids count milliseconds from here, so 41 bits last until 2089."""

_LONGEST_PASSWORD = 256


class Ids:
    """Time-ordered ids below 2^53: 41 bits of milliseconds, 12 of sequence; never twice, whatever the clock does.

    They go on after `last`, the largest one there is: a request that came later is the newer one (wire contract,
    section 2), also after a restart with a clock that went back.
    """

    def __init__(self, last: int = 0) -> None:
        self._last = last

    def next(self, now: Millis) -> int:
        """A fresh id."""
        self._last = max(self._last + 1, (now - _EPOCH) << 12)
        return self._last


@dataclass(frozen=True, slots=True)
class NewAccount:
    """What an operator says about a new account; `parent` is an id or a name, `device_broker` None the default one."""

    name: str
    kind: AccountKind
    display_name: str = ""
    parent: int | str | None = None
    coupling: Coupling = Coupling.STRICT
    quota: int | None = None
    device_broker: str | None = None


class Desk:
    """The operator's use cases around accounts, users and tokens.

    `wake` is called when a job became due; ids go on after `newest_id`.
    """

    def __init__(
        self,
        store: Store,
        vault: Vault,
        logins: Logins,
        passwords: Passwords,
        brokers: Mapping[str, DeviceBroker],
        entropy: Entropy,
        *,
        default_broker: str,
        provision_account: str,
        confirm_time: int,
        retry_max_attempts: int = 5,
        allow_keyless: bool = False,
        newest_id: int = 0,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._vault = vault
        self._logins = logins
        self._passwords = passwords
        self._brokers = brokers
        self._entropy = entropy
        self._default_broker = default_broker
        self._provision_account = provision_account
        self._confirm_time = confirm_time
        self._retry_max = retry_max_attempts
        self._allow_keyless = allow_keyless
        self._wake = wake
        self._ids = Ids(newest_id)
        self.attachments = Attachments(self, store, vault, entropy)
        self.learning = Learning(self, store.sightings, self._ids.next)
        self.labels = LabelDesk(self, store.labels, entropy)
        self.policies = PolicyDesk(self, store.policies, entropy)

    # -- tokens --------------------------------------------------------------------------------------------------------

    async def authenticate(self, text: str) -> Actor:
        """The operator behind a bearer token. Raises `Forbidden("unauthenticated")`."""
        token = await self._store.find_token(self._vault.fingerprint(text, "token")) if text else None
        if token is None:
            raise Forbidden("unauthenticated", "a valid bearer token is needed")
        return Actor(token.id, token.role, token.account_id)

    async def create_token(
        self, actor: Actor, name: str, role: Role, account: int | str | None, now: Millis
    ) -> tuple[Token, Secret]:
        """A token and its text, which is not kept. Raises `Conflict` when the name is taken."""
        check_role(actor)
        policy.parse_identifier(name, "name")
        if account is None and actor.account_id is not None:
            account = actor.account_id
        account_id = None if account is None else (await self.get_account(actor, account)).id
        secret = Secret("prov_" + new_text(self._entropy, 40))
        fingerprint = self._vault.fingerprint(secret.reveal(), "token")
        token = Token(self._ids.next(now), name, role, account_id, fingerprint, now)
        await self._add(
            self._store.add_token(token, Note(now, "create-token", actor.token_id, cause=f"{name}, {role}")),
            "token",
            name,
        )
        return token, secret

    async def list_tokens(self, actor: Actor) -> Sequence[Token]:
        """Tokens the operator may see."""
        check_role(actor)
        visible = await self.visible(actor)
        tokens = await self._store.list_tokens()
        return [token for token in tokens if visible is None or token.account_id in visible]

    async def delete_token(self, actor: Actor, token_id: int, now: Millis) -> None:
        """Raises `NotFound`; the operator's own token cannot be deleted with itself."""
        if token_id == actor.token_id:
            raise Conflict("own-token", "a token cannot delete itself; use another one")
        name = next((token.name for token in await self.list_tokens(actor) if token.id == token_id), None)
        if name is None:
            raise NotFound("no-such-token", "there is no such token")
        await self._store.delete_token(token_id, Note(now, "delete-token", actor.token_id, cause=name))

    # -- accounts ------------------------------------------------------------------------------------------------------

    async def create_account(self, actor: Actor, new: NewAccount, now: Millis) -> Account:
        """A new account. Raises `Invalid`, `Conflict` when the name is taken."""
        check_role(actor)
        policy.parse_identifier(new.name, "name")
        if new.quota is not None and new.quota < 0:
            raise Invalid("invalid-quota", "quota must not be negative", field="quota")
        if len(new.display_name) > 255 or not new.display_name.isprintable():
            told = "displayName must have at most 255 printable characters"
            raise Invalid("invalid-display-name", told, field="displayName")
        device_broker = self._default_broker if new.device_broker is None else self._known_broker(new.device_broker)
        parent = new.parent
        if parent is None and actor.account_id is not None:
            parent = actor.account_id
        account = Account(
            id=self._ids.next(now),
            uid=self._entropy(16).hex(),
            name=new.name,
            display_name=new.display_name or new.name,
            kind=new.kind,
            parent_id=None if parent is None else (await self.get_account(actor, parent)).id,
            coupling=new.coupling,
            device_broker=device_broker,
            quota=new.quota,
            created_on=now,
            created_by=actor.token_id,
            modified_on=now,
            modified_by=actor.token_id,
        )
        await self._add(
            self._store.add_account(account, Note(now, "create-account", actor.token_id, cause=new.name)),
            "account",
            new.name,
        )
        return account

    async def move_account(self, actor: Actor, id_or_name: int | str, device_broker: str, now: Millis) -> Account:
        """Have the devices of an account's future requests work elsewhere; those it has stay where they are."""
        check_role(actor)
        account = await self.get_account(actor, id_or_name)
        note = Note(now, "move-account", actor.token_id, cause=f"{account.name} to {self._known_broker(device_broker)}")
        await self._store.save_device_broker(account.id, device_broker, note)
        return await self.get_account(actor, account.id)

    def _known_broker(self, name: str) -> str:
        if name not in self._brokers:
            raise Invalid(
                "no-such-device-broker",
                f"there is no such device broker; it is one of {', '.join(sorted(self._brokers))}",
                field="deviceBroker",
            )
        return name

    async def list_accounts(self, actor: Actor) -> Sequence[Account]:
        """Accounts the operator may see."""
        visible = await self.visible(actor)
        return [account for account in await self._store.list_accounts() if visible is None or account.id in visible]

    async def get_account(self, actor: Actor, id_or_name: int | str) -> Account:
        """One account by id or name. Raises `NotFound`."""
        if isinstance(id_or_name, int):
            account = await self._store.find_account(id_or_name)
        else:
            account = await self._store.find_account_named(id_or_name)
        visible = await self.visible(actor)
        if account is None or (visible is not None and account.id not in visible):
            raise NotFound("no-such-account", "there is no such account")
        return account

    async def visible(self, actor: Actor) -> frozenset[int] | None:
        """Ids of the accounts an operator sees: its own and all below; None: everything."""
        if actor.account_id is None:
            return None
        accounts = await self._store.list_accounts()
        seen = {actor.account_id}
        while True:
            below = {account.id for account in accounts if account.parent_id in seen} - seen
            if not below:
                return frozenset(seen)
            seen |= below

    async def above(self, account_id: int | None) -> tuple[int | None, ...]:
        """Ids of an account and of all above it, and None for what belongs to no account: whose things it may use."""
        parents = {account.id: account.parent_id for account in await self._store.list_accounts()}
        found: list[int | None] = []
        while account_id is not None:
            found.append(account_id)
            account_id = parents.get(account_id)
        return (*found, None)

    # -- users ---------------------------------------------------------------------------------------------------------

    async def create_user(
        self, actor: Actor, username: str, password: Secret | None, account: int | str | None, now: Millis
    ) -> tuple[User, Secret | None]:
        """A provision user; without a password one is generated and given back, once."""
        check_role(actor)
        policy.parse_identifier(username, "username")
        account_id = None
        if account is not None:
            found = await self.get_account(actor, account)
            if found.kind is not AccountKind.PROVISION:
                raise Invalid(
                    "not-a-provision-account", "a provision user needs a PROVISION account", field="accountId"
                )
            account_id = found.id
        return await self._make_user_or_generate(actor.token_id, username, password, account_id, now)

    async def has_user(self, username: str) -> bool:
        """Whether there is such a provision user."""
        return await self._store.find_user(username) is not None

    async def _make_user_or_generate(
        self, created_by: int, username: str, password: Secret | None, account_id: int | None, now: Millis
    ) -> tuple[User, Secret | None]:
        if password is not None:
            return await self._make_user(created_by, username, password, account_id, now), None
        generated = Secret(new_text(self._entropy, 24))
        stored = self._passwords.hash_generated(generated.reveal())
        return await self._add_user(created_by, username, stored, account_id, now), generated

    async def _make_user(
        self, created_by: int, username: str, password: Secret, account_id: int | None, now: Millis
    ) -> User:
        stored = await self._hash(password)
        return await self._add_user(created_by, username, stored, account_id, now)

    async def _add_user(self, created_by: int, username: str, stored: str, account_id: int | None, now: Millis) -> User:
        if account_id is None:
            account = await self._store.find_account_named(self._provision_account)
            if account is None:
                raise NotFound("no-such-account", f"there is no provision account {self._provision_account}")
            account_id = account.id
        user = User(self._ids.next(now), account_id, username, stored, now, created_by)
        await self._add(
            self._store.add_user(user, Note(now, "create-user", created_by, cause=username)), "user", username
        )
        self._logins.forget()
        return user

    async def list_users(self, actor: Actor) -> Sequence[User]:
        """Provision users the operator may see."""
        visible = await self.visible(actor)
        return [user for user in await self._store.list_users() if visible is None or user.account_id in visible]

    async def set_user_password(
        self, actor: Actor, user_id: int, password: Secret | None, now: Millis
    ) -> Secret | None:
        """Replace a provision user's password; without one, one is generated and given back, once."""
        check_role(actor)
        username = next((user.username for user in await self.list_users(actor) if user.id == user_id), None)
        if username is None:
            raise NotFound("no-such-user", "there is no such provision user")
        generated = None
        if password is None:
            generated = Secret(new_text(self._entropy, 24))
            stored = self._passwords.hash_generated(generated.reveal())
        else:
            stored = await self._hash(password)
        await self._store.save_user_password(user_id, stored, Note(now, "set-password", actor.token_id, cause=username))
        self._logins.forget()
        return generated

    async def _hash(self, password: Secret) -> str:
        text = password.reveal()
        if not 1 <= len(text.encode()) <= _LONGEST_PASSWORD or "\x00" in text:
            raise Invalid("invalid-password", "a password must have 1 to 256 bytes", field="password")
        return await self._passwords.hash_chosen(text)

    @staticmethod
    async def _add(adding: Awaitable[None], kind: str, name: str) -> None:
        try:
            await adding
        except Conflict:
            raise Conflict("name-taken", f"the {kind} {name} is there already", field="name") from None
