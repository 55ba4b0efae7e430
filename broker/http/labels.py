"""Routes under `/v2/tags` and `/v2/locations`: labels that requests carry by uid."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from broker.http.bodies import Creator, Id, Text, Uid
from broker.http.calls import Asked
from broker.http.entities import Entity
from provisioner.model import Label, LabelKind

KnownUid = Annotated[Uid, Path(description="32 hex digits")]


class LabelCreator(Creator):
    """A new tag or location; without an account it is for the one of the token, or for all."""

    name: Text
    account_id: Id | None = None


class LabelEntity(Entity):
    """A tag or a location; without `accountId` every account may use it."""

    uid: str
    name: str
    account_id: int | None
    created_on: int
    created_by: int


class TagList(Entity):
    """The tags an operator may use."""

    tag: list[LabelEntity]


class LocationList(Entity):
    """The locations an operator may use."""

    location: list[LabelEntity] = Field(description="oldest first")


def label_entity(label: Label) -> LabelEntity:
    """A label as the API shows it."""
    return LabelEntity(
        uid=label.uid,
        name=label.name,
        account_id=label.account_id,
        created_on=label.created_on,
        created_by=label.created_by,
    )


router = APIRouter()


def _add_routes(kind: LabelKind, plural: str, page: type[TagList | LocationList]) -> None:
    async def create(call: Asked, body: LabelCreator) -> LabelEntity:
        labels = call.administration.labels
        return label_entity(await labels.create(call.actor, kind, body.name, body.account_id, call.now))

    async def show(call: Asked) -> Entity:
        found = await call.administration.labels.list(call.actor, kind)
        return page(**{kind.value: [label_entity(label) for label in found]})

    async def delete(call: Asked, uid: KnownUid) -> None:
        await call.administration.labels.delete(call.actor, kind, uid, call.now)

    path = f"/v2/{plural}"
    router.add_api_route(
        path,
        create,
        methods=["POST"],
        status_code=201,
        name=f"create_{kind}",
        summary=f"Create a {kind}",
        description="Requests of its account and of all below it may carry it.",
        response_model_exclude_none=True,
        tags=[plural],
    )
    router.add_api_route(
        path,
        show,
        methods=["GET"],
        name=f"list_{plural}",
        summary=f"List {plural}",
        description="Those that the token may use, oldest first.",
        response_model=page,
        response_model_exclude_none=True,
        tags=[plural],
    )
    router.add_api_route(
        f"{path}/{{uid}}",
        delete,
        methods=["DELETE"],
        status_code=204,
        name=f"delete_{kind}",
        summary=f"Delete a {kind}",
        description="Requests that carry it keep it.",
        tags=[plural],
    )


_add_routes(LabelKind.TAG, "tags", TagList)
_add_routes(LabelKind.LOCATION, "locations", LocationList)
