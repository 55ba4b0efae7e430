"""Routes under `/v2/accounts`, `/v2/users` and `/v2/tokens`: who there is."""

from __future__ import annotations

import contextlib
from typing import Annotated

from fastapi import APIRouter, Path

from broker.http.bodies import (
    MAX_NUMBER,
    AccountCreator,
    AccountMove,
    Digits,
    PasswordChange,
    TokenCreator,
    UserCreator,
    secret,
)
from broker.http.calls import Asked
from broker.http.entities import (
    AccountEntity,
    AccountList,
    PasswordEntity,
    TokenEntity,
    TokenList,
    UserEntity,
    UserList,
    account_entity,
    token_entity,
    user_entity,
)
from provisioner.errors import NotFound

accounts = APIRouter(prefix="/v2/accounts", tags=["accounts"])
users = APIRouter(prefix="/v2/users", tags=["provision users"])
tokens = APIRouter(prefix="/v2/tokens", tags=["operator tokens"])

Number = Annotated[int, Path(ge=0, le=MAX_NUMBER), Digits]
NameOrId = Annotated[str, Path(max_length=255)]


@accounts.post("", status_code=201, response_model_exclude_none=True, summary="Create an account")
async def create_account(call: Asked, body: AccountCreator) -> AccountEntity:
    """`PROVISION`: devices start here; `TARGET`: owns devices."""
    return account_entity(await call.administration.create_account(call.actor, body.inside(), call.now))


@accounts.get("", response_model_exclude_none=True, summary="List accounts")
async def list_accounts(call: Asked) -> AccountList:
    """Those the token may see, oldest first."""
    found = await call.administration.list_accounts(call.actor)
    return AccountList(account=[account_entity(account) for account in found])


@accounts.get("/{name_or_id}", response_model_exclude_none=True, summary="Show an account")
async def get_account(call: Asked, name_or_id: NameOrId) -> AccountEntity:
    """By id or by name; digits are an id first."""
    if name_or_id.isdecimal() and int(name_or_id) <= MAX_NUMBER:
        with contextlib.suppress(NotFound):
            return account_entity(await call.administration.get_account(call.actor, int(name_or_id)))
    return account_entity(await call.administration.get_account(call.actor, name_or_id))


@accounts.post("/{account_id}/move", response_model_exclude_none=True, summary="Give an account another device broker")
async def move_account(call: Asked, account_id: Number, body: AccountMove) -> AccountEntity:
    """For requests made from now on; devices that have credentials keep working where they are."""
    return account_entity(await call.administration.move_account(call.actor, account_id, body.device_broker, call.now))


@users.post("", status_code=201, response_model_exclude_none=True, summary="Create a provision user")
async def create_user(call: Asked, body: UserCreator) -> UserEntity:
    """Without a password one is generated; it is in this answer only."""
    user, password = await call.administration.create_user(
        call.actor, body.username, secret(body.password), body.account_id, call.now
    )
    return user_entity(user, password)


@users.get("", response_model_exclude_none=True, summary="List provision users")
async def list_users(call: Asked) -> UserList:
    """Those the token may see, oldest first."""
    return UserList(user=[user_entity(user) for user in await call.administration.list_users(call.actor)])


@users.post("/{user_id}/password", response_model_exclude_none=True, summary="Replace a password")
async def set_password(call: Asked, user_id: Number, body: PasswordChange | None = None) -> PasswordEntity:
    """Without a password one is generated; it is in this answer only."""
    given = secret(body.password) if body else None
    generated = await call.administration.set_user_password(call.actor, user_id, given, call.now)
    return PasswordEntity(password=generated.reveal() if generated else None)


@tokens.post("", status_code=201, response_model_exclude_none=True, summary="Create an operator token")
async def create_token(call: Asked, body: TokenCreator) -> TokenEntity:
    """The token itself is in this answer only."""
    token, text = await call.administration.create_token(call.actor, body.name, body.role, body.account_id, call.now)
    return token_entity(token, text)


@tokens.get("", response_model_exclude_none=True, summary="List operator tokens")
async def list_tokens(call: Asked) -> TokenList:
    """Those the token may see, oldest first."""
    return TokenList(token=[token_entity(token) for token in await call.administration.list_tokens(call.actor)])


@tokens.delete("/{token_id}", status_code=204, summary="Delete an operator token")
async def delete_token(call: Asked, token_id: Number) -> None:
    """Whoever holds it is refused from now on."""
    await call.administration.delete_token(call.actor, token_id, call.now)
