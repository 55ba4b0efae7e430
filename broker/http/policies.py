"""Routes under `/v2/policies`: named sets of rules that requests are made by."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field

from broker.http.bodies import MAX_NUMBER, Body, Creator, Digits, Id, Number, Text, Uid, Word
from broker.http.calls import Asked
from broker.http.entities import Entity, entity
from provisioner.model import Confirm, Coupling, Kind, Policy, PolicyRules
from provisioner.policies import read_rules

router = APIRouter(prefix="/v2/policies", tags=["policies"])

PolicyUid = Annotated[Uid, Path(description="32 hex digits")]
Version = Annotated[int, Path(ge=1, le=MAX_NUMBER), Digits]

_INSIDE = {
    "provision_user_username": "username",
    "device_credentials_tight": "coupling",
    "provision_secure_url": "secure_url",
}
_OUTSIDE = ("name", "account_id", "optlock")


class Topics(Body):
    """Filters with places for `${account}` and `${clientId}`; each starts with `${account}/`."""

    publish: list[Text] = Field(default_factory=list, max_length=16)
    subscribe: list[Text] = Field(default_factory=list, max_length=16)


class Rules(Creator):
    """What a request gets where its creator says nothing; absent: what the account or the settings say."""

    name: Text
    provision_user_username: Text | None = None
    device_credentials_tight: Annotated[Coupling, Word] | None = None
    kinds: list[Annotated[Kind, Word]] | None = Field(default=None, description="the first is the default")
    validity: Number | None = Field(default=None, description="seconds after which a proved credential is renewed")
    confirm: Annotated[Confirm, Word] | None = None
    confirm_time: Number | None = Field(default=None, description="seconds")
    retry_max_attempts: Number | None = None
    window: Number | None = Field(default=None, description="seconds from the start of a request to its end")
    provision_secure_url: bool | None = Field(default=None, alias="provisionSecureURL")
    topics: Topics | None = None
    configuration: dict[str, Any] | None = Field(default=None, description="a template: ${clientId}, ${serialNumber} …")
    storage_ceiling_gb: Number | None = Field(default=None, alias="storageCeilingGB")

    def inside(self) -> PolicyRules:
        """The same as the inside takes it."""
        said = {
            _INSIDE.get(name, name): value
            for name, value in dict(self).items()
            if value is not None and name not in _OUTSIDE
        }
        if self.topics is not None:
            said["topics"] = {"publish": self.topics.publish, "subscribe": self.topics.subscribe}
        if self.kinds is not None:
            said["kinds"] = tuple(self.kinds)
        return read_rules(said)


class PolicyCreator(Rules):
    """A new policy; without an account it is for the one of the token, or for all."""

    account_id: Id | None = None


class PolicyChange(Rules):
    """A policy as it shall be; what is absent is not ruled any more."""

    optlock: Annotated[Number, Field(description="the version that you saw")]


class TopicsEntity(Entity):
    """Filters with places for the account and the client id."""

    publish: list[str]
    subscribe: list[str]


class PolicyEntity(Entity):
    """One version of a policy; without `accountId` it is for all."""

    uid: str
    name: str
    account_id: int | None
    optlock: int = Field(description="its version")
    provision_user_username: str | None
    device_credentials_tight: Coupling
    kinds: list[Kind]
    validity: int | None
    confirm: Confirm | None
    confirm_time: int | None
    retry_max_attempts: int | None
    window: int | None
    provision_secure_url: bool | None = Field(alias="provisionSecureURL")
    topics: TopicsEntity | None
    configuration: dict[str, Any] | None
    storage_ceiling_gb: int | None = Field(alias="storageCeilingGB")
    created_on: int
    created_by: int


class PolicyList(Entity):
    """The policies an operator may use, by name."""

    policy: list[PolicyEntity]


@entity.register
def policy_entity(policy: Policy) -> PolicyEntity:
    """A policy as the API shows it."""
    rules = policy.rules
    return PolicyEntity(
        uid=policy.uid,
        name=policy.name,
        account_id=policy.account_id,
        optlock=policy.version,
        provision_user_username=rules.username,
        device_credentials_tight=rules.coupling,
        kinds=list(rules.kinds),
        validity=rules.validity,
        confirm=rules.confirm,
        confirm_time=rules.confirm_time,
        retry_max_attempts=rules.retry_max_attempts,
        window=rules.window,
        provision_secure_url=rules.secure_url,
        topics=None if rules.topics is None else TopicsEntity(**json.loads(rules.topics)),
        configuration=None if rules.configuration is None else json.loads(rules.configuration),
        storage_ceiling_gb=rules.storage_ceiling_gb,
        created_on=policy.created_on,
        created_by=policy.created_by,
    )


@router.post("", status_code=201, response_model_exclude_none=True, summary="Create a policy")
async def create_policy(call: Asked, body: PolicyCreator) -> PolicyEntity:
    """Requests of its account and of all below it may be made by it."""
    policies = call.administration.policies
    return policy_entity(await policies.create(call.actor, body.name, body.account_id, body.inside(), call.now))


@router.get("", response_model_exclude_none=True, summary="List policies")
async def list_policies(call: Asked) -> PolicyList:
    """Those that the token may use, in their versions in force."""
    return PolicyList(policy=[policy_entity(one) for one in await call.administration.policies.list(call.actor)])


@router.get("/{uid}", response_model_exclude_none=True, summary="Show a policy")
async def get_policy(call: Asked, uid: PolicyUid) -> PolicyEntity:
    """The version in force."""
    return policy_entity(await call.administration.policies.get(call.actor, uid))


@router.get("/{uid}/versions/{version}", response_model_exclude_none=True, summary="Show one version of a policy")
async def get_policy_version(call: Asked, uid: PolicyUid, version: Version) -> PolicyEntity:
    """In force or not: a request says which one it was made by."""
    return policy_entity(await call.administration.policies.get(call.actor, uid, version))


@router.put("/{uid}", response_model_exclude_none=True, summary="Change a policy")
async def change_policy(call: Asked, uid: PolicyUid, body: PolicyChange) -> PolicyEntity:
    """Makes the next version; requests that are there keep theirs. A stale `optlock` is answered 409."""
    policies = call.administration.policies
    return policy_entity(await policies.change(call.actor, uid, body.optlock, body.name, body.inside(), call.now))


@router.delete("/{uid}", status_code=204, summary="Delete a policy")
async def delete_policy(call: Asked, uid: PolicyUid) -> None:
    """It makes no more requests; those that are there keep their version."""
    await call.administration.policies.delete(call.actor, uid, call.now)
