"""Routes under `/v2/attachments`: operators keep files, devices fetch them with a ticket of their offer."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from broker.http.bodies import MAX_NUMBER, Digits, Uid
from broker.http.calls import Asked
from broker.http.entities import Entity
from broker.http.gate import UPLOADS
from broker.http.problems import answer
from provisioner.attachments import DOWNLOADS, Gone
from provisioner.model import Attachment

router = APIRouter(tags=["attachments"])

AttachmentId = Annotated[Uid, Path(description="32 hex digits")]
Ticket = Annotated[str, Path(max_length=255)]


class AttachmentEntity(Entity):
    """A file that requests may enclose; without `accountId` those of all accounts may."""

    id: str
    account_id: int | None
    name: str
    size: int
    sha256: str
    created_on: int
    created_by: int


class AttachmentList(Entity):
    """The files an operator may use, oldest first."""

    attachment: list[AttachmentEntity]


def attachment_entity(attachment: Attachment) -> AttachmentEntity:
    """A file as the API shows it."""
    return AttachmentEntity(
        id=attachment.id,
        account_id=attachment.account_id,
        name=attachment.name,
        size=attachment.size,
        sha256=attachment.sha256,
        created_on=attachment.created_on,
        created_by=attachment.created_by,
    )


@router.post(
    UPLOADS,
    status_code=201,
    response_model_exclude_none=True,
    summary="Keep a file",
    openapi_extra={"requestBody": {"content": {"application/octet-stream": {}}, "required": True}},
)
async def add_attachment(
    request: Request,
    call: Asked,
    name: Annotated[str, Query(min_length=1, max_length=255)],
    account_id: Annotated[int | None, Query(alias="accountId", ge=0, le=MAX_NUMBER), Digits] = None,
) -> AttachmentEntity:
    """The body is the file, at most 16 MiB."""
    content = await request.body()
    return attachment_entity(await call.administration.attachments.add(call.actor, name, account_id, content, call.now))


@router.get(UPLOADS, response_model_exclude_none=True, summary="List files")
async def list_attachments(call: Asked) -> AttachmentList:
    """Those that requests of the token's accounts may enclose."""
    found = await call.administration.attachments.list(call.actor)
    return AttachmentList(attachment=[attachment_entity(one) for one in found])


@router.delete(f"{UPLOADS}/{{attachment_id}}", status_code=204, summary="Delete a file")
async def delete_attachment(call: Asked, attachment_id: AttachmentId) -> None:
    """Answered 409 while an open request encloses it."""
    await call.administration.attachments.delete(call.actor, attachment_id, call.now)


@router.get(
    f"{DOWNLOADS}/{{ticket}}",
    summary="Fetch an attachment",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {}}}, 410: {"description": "claim again"}},
)
async def download(request: Request, ticket: Ticket) -> Response:
    """Needs no token: the address in a device's offer is the permission, once."""
    parts = request.app.state
    try:
        enclosed, content = await parts.administration.attachments.redeem(ticket, parts.clock())
    except Gone as gone:
        response = answer(request, gone)
        response.status_code = 410
        return response
    headers = {
        "content-length": str(enclosed.size),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(enclosed.name, safe='')}",
    }
    return StreamingResponse(content, media_type="application/octet-stream", headers=headers)
