"""What the operator API answers: values from inside, in the words of the seeds.

1. JSON keys are Everyware's (`optlock`, `provisionSecureURL`, `provisionedCredentialsTight`); our additions follow the
   same style.
2. Times are epoch milliseconds; what is absent is left out, not null.
3. A secret is in an answer only where the operator is to see it now, once: on create, reopen, reveal.
"""

from __future__ import annotations

import json
from functools import singledispatch
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from provisioner.attachments import enclosed_in
from provisioner.lifecycle import Phase
from provisioner.livesessions import LiveSession
from provisioner.model import (
    Account,
    AccountKind,
    Confirm,
    Coupling,
    JobStatus,
    Kind,
    ProvisionRequest,
    Role,
    Secret,
    Status,
    Token,
    User,
    job_status,
)

JOB_TYPE = "device_provision_v3"
"""Everyware's name for the job behind a provision request."""


def _absent_rather_than_null(schema: dict[str, Any]) -> None:
    """What may be null is left out then (rule 2), so the description must not promise it."""
    nullable = {
        name for name, told in schema.get("properties", {}).items() if {"type": "null"} in told.get("anyOf", ())
    }
    schema["required"] = [name for name in schema.get("required", ()) if name not in nullable]


class Entity(BaseModel):
    """Something the API shows."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, json_schema_extra=_absent_rather_than_null
    )


class ProvisionJob(Entity):
    """The hand-over behind a request: how far it is."""

    status: JobStatus
    id: int
    account_id: int
    job_type: str = JOB_TYPE
    display_name: str
    job_properties: str = Field(description="JSON text: what the device reported last, and what is still wanted of it")
    created_on: int
    created_by: int
    start_on: int = Field(description="the first claim; before it, when the window opens")
    retry_max_attempts: int
    retry_count: int
    optlock: int


class EnclosedEntity(Entity):
    """A file that the device gets with its credential."""

    id: str
    type: str
    name: str
    size: int
    sha256: str


class RequestEntity(Entity):
    """A provision request: Everyware's ProvisionRequest and our additions."""

    id: int
    account_id: int
    created_on: int
    created_by: int
    modified_on: int
    modified_by: int
    activates_on: int | None
    expires_on: int | None
    status: Status
    client_id: str
    activation_key: str | None = Field(default=None, description="only in the answer that makes or reveals it")
    provision_user_id: int
    provision_user_username: str
    provision_job: ProvisionJob
    optlock: int
    provision_secure_url: bool = Field(alias="provisionSecureURL")
    provisioned_credentials_tight: Coupling
    credential_kind: Kind
    phase: Phase
    generation: int
    confirm: Confirm
    confirm_time: int = Field(description="seconds")
    configuration: dict[str, Any]
    forget: bool
    reuse_key: bool
    serial_number: str | None
    mac_address: str | None
    vendor: str | None
    brand: str | None
    model: str | None
    device_name: str | None
    tag_uids: list[str]
    location_uid: str | None
    policy_uid: str | None
    policy_version: int | None
    confirmed_ownership: bool | None
    provision_attachments: list[EnclosedEntity]
    unsuccessful_register_attempt_status: dict[str, Any] | None = Field(description="the last refusal")


class LiveSessionEntity(Entity):
    """Whether the device broker closes the session that the device has open, and a sentence about it."""

    closes: bool
    detail: str


class LeavingEntity(RequestEntity):
    """A request whose credential goes, at once or once the next one is confirmed."""

    live_session: LiveSessionEntity


class RequestList(Entity):
    """A page of requests, newest first; `limitExceeded`: there are more behind it."""

    limit_exceeded: bool
    provision_request: list[RequestEntity]


class AccountEntity(Entity):
    """A tenant."""

    id: int
    uid: str
    name: str
    display_name: str
    kind: AccountKind
    parent_id: int | None
    coupling: Coupling
    device_broker: str
    quota: int | None
    created_on: int
    created_by: int
    modified_on: int
    modified_by: int
    optlock: int


class AccountList(Entity):
    """The accounts an operator sees."""

    account: list[AccountEntity]


class UserEntity(Entity):
    """A login that devices start with."""

    id: int
    account_id: int
    username: str
    password: str | None = Field(default=None, description="a generated one, shown once")
    created_on: int
    created_by: int


class UserList(Entity):
    """The provision users an operator sees."""

    user: list[UserEntity]


class TokenEntity(Entity):
    """An operator's bearer token; without `accountId` it sees everything."""

    id: int
    name: str
    role: Role
    account_id: int | None
    token: str | None = Field(default=None, description="the token itself, shown once")
    created_on: int


class TokenList(Entity):
    """The tokens an operator sees."""

    token: list[TokenEntity]


class PasswordEntity(Entity):
    """A generated password, shown once; empty when the operator gave one."""

    password: str | None


class KeyEntity(Entity):
    """An activation key, revealed."""

    activation_key: str


@singledispatch
def entity(value: object) -> Entity:
    """What the API shows of a value of the model."""
    raise TypeError(f"the API does not show {type(value).__name__}")


@entity.register
def account_entity(account: Account) -> AccountEntity:
    """An account as the API shows it."""
    return AccountEntity(
        id=account.id,
        uid=account.uid,
        name=account.name,
        display_name=account.display_name,
        kind=account.kind,
        parent_id=account.parent_id,
        coupling=account.coupling,
        device_broker=account.device_broker,
        quota=account.quota,
        created_on=account.created_on,
        created_by=account.created_by,
        modified_on=account.modified_on,
        modified_by=account.modified_by,
        optlock=account.optlock,
    )


@entity.register
def user_entity(user: User, password: Secret | None = None) -> UserEntity:
    """A provision user as the API shows it; never its hash."""
    return UserEntity(
        id=user.id,
        account_id=user.account_id,
        username=user.username,
        password=_revealed(password),
        created_on=user.created_on,
        created_by=user.created_by,
    )


@entity.register
def token_entity(token: Token, text: Secret | None = None) -> TokenEntity:
    """A token as the API shows it; never its hash."""
    return TokenEntity(
        id=token.id,
        name=token.name,
        role=token.role,
        account_id=token.account_id,
        token=_revealed(text),
        created_on=token.created_on,
    )


@entity.register
def request_entity(request: ProvisionRequest, activation_key: Secret | None = None) -> RequestEntity:
    """A request with its job as the API shows it."""
    return RequestEntity(
        id=request.id,
        account_id=request.account_id,
        created_on=request.created_on,
        created_by=request.created_by,
        modified_on=request.modified_on,
        modified_by=request.modified_by,
        activates_on=request.activates_on,
        expires_on=request.expires_on,
        status=request.status,
        client_id=request.client_id,
        activation_key=_revealed(activation_key),
        provision_user_id=request.provision_user_id,
        provision_user_username=request.provision_username,
        provision_job=_job(request),
        optlock=request.optlock,
        provision_secure_url=request.secure_url,
        provisioned_credentials_tight=request.coupling,
        credential_kind=request.kind,
        phase=request.phase,
        generation=request.generation,
        confirm=request.confirm,
        confirm_time=request.confirm_time // 1000,
        configuration=json.loads(request.configuration),
        forget=request.forget,
        reuse_key=request.reuse_key,
        serial_number=request.facts.serial_number,
        mac_address=request.facts.mac_address,
        vendor=request.facts.vendor,
        brand=request.facts.brand,
        model=request.facts.model,
        device_name=request.device_name,
        tag_uids=list(request.labels.tag_uids),
        location_uid=request.labels.location_uid,
        policy_uid=request.labels.policy_uid,
        policy_version=request.labels.policy_version,
        confirmed_ownership=request.labels.confirmed_ownership,
        provision_attachments=[
            EnclosedEntity(id=one.id, type=one.type, name=one.name, size=one.size, sha256=one.sha256)
            for one in enclosed_in(request)
        ],
        unsuccessful_register_attempt_status=json.loads(request.last_refusal) if request.last_refusal else None,
    )


def leaving_entity(request: ProvisionRequest, session: LiveSession) -> LeavingEntity:
    """The same, and what becomes of the session that is open."""
    told = LiveSessionEntity(closes=session.closes, detail=session.detail)
    return LeavingEntity(**dict(request_entity(request)), live_session=told)


def _job(request: ProvisionRequest) -> ProvisionJob:
    properties: dict[str, object] = {"generation": request.generation}
    if request.proved_generation is not None:
        properties["provedGeneration"] = request.proved_generation
    if request.progress is not None:
        properties["progress"] = request.progress
    properties |= dict.fromkeys(_wanted(request), True)
    return ProvisionJob(
        status=job_status(request),
        id=request.job_id,
        account_id=request.account_id,
        display_name=f"Provision {request.client_id}",
        job_properties=json.dumps(properties),
        created_on=request.created_on,
        created_by=request.created_by,
        start_on=next(
            when for when in (request.start_on, request.activates_on, request.created_on) if when is not None
        ),
        retry_max_attempts=request.retry_max_attempts,
        retry_count=request.retry_count,
        optlock=request.job_optlock,
    )


def _wanted(request: ProvisionRequest) -> list[str]:
    """What the operator asked for and the hand-over has not done yet."""
    asked = {"rotateWanted": request.rotate_wanted, "stopWanted": request.stop_wanted}
    return [name for name, wanted in asked.items() if wanted]


def _revealed(secret: Secret | None) -> str | None:
    return None if secret is None else secret.reveal()
