"""PUT of a provision request: the entity as GET shows it, with another value here and there.

1. `optlock` must be the current one. Absent fields stay as they are; null empties what may be empty.
2. What identifies a request cannot be changed: a different value is refused, so nobody believes it was.
3. What the hand-over itself moves (`phase`, `provisionJob`, …) is not looked at: it may have moved since the GET. But
   `retryMaxAttempts` counts where Everyware keeps it, inside `provisionJob`, as well as beside it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from broker.http.bodies import Body, Id, Number, Text, Time, Uid, Word
from broker.http.entities import RequestEntity
from provisioner.errors import Invalid
from provisioner.model import Confirm, Coupling, Facts, Labels, Status

_FIXED = (
    "id",
    "account_id",
    "client_id",
    "created_on",
    "created_by",
    "provision_user_id",
    "provision_user_username",
    "reuse_key",
    "policy_uid",
    "policy_version",
    "credential_kind",
)
_LABELS = ("tag_uids", "location_uid", "confirmed_ownership")
_FACTS = ("serial_number", "mac_address", "vendor", "brand", "model")
_MOVING = (
    "modified_on",
    "modified_by",
    "phase",
    "generation",
    "unsuccessful_register_attempt_status",
    "provision_attachments",
)
_INSIDE = {"provision_secure_url": "secure_url", "provisioned_credentials_tight": "coupling"}
"""Names that differ from those inside."""

_KEPT: Any = None
"""Absent: as it is. Null is no value of such a field, so it is refused where it is sent."""


class JobChange(BaseModel):
    """The nested job: all but the one field is there to be read."""

    model_config = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True, alias_generator=to_camel)

    retry_max_attempts: Number = _KEPT


class RequestChange(Body):
    """A provision request as it shall be."""

    optlock: Id
    status: Annotated[Status, Word] = _KEPT
    activates_on: Time | None = None
    expires_on: Time | None = None
    provision_secure_url: bool = Field(default=_KEPT, alias="provisionSecureURL")
    provisioned_credentials_tight: Literal["STRICT", "LOOSE"] = _KEPT
    confirm: Annotated[Confirm, Word] = _KEPT
    confirm_time: Number = Field(default=_KEPT, description="seconds")
    configuration: dict[str, Any] = _KEPT
    forget: bool = _KEPT
    retry_max_attempts: Number = _KEPT
    serial_number: Text | None = None
    mac_address: Text | None = None
    vendor: Text | None = None
    brand: Text | None = None
    model: Text | None = None
    device_name: Text | None = None
    tag_uids: list[Uid] = Field(default=_KEPT, max_length=32)
    location_uid: Uid | None = None
    confirmed_ownership: bool | None = None

    id: Any = Field(default=None, description="cannot be changed")
    account_id: Any = Field(default=None, description="cannot be changed")
    client_id: Any = Field(default=None, description="cannot be changed")
    created_on: Any = Field(default=None, description="cannot be changed")
    created_by: Any = Field(default=None, description="cannot be changed")
    provision_user_id: Any = Field(default=None, description="cannot be changed")
    provision_user_username: Any = Field(default=None, description="cannot be changed")
    reuse_key: Any = Field(default=None, description="cannot be changed")
    policy_uid: Any = Field(default=None, description="cannot be changed")
    policy_version: Any = Field(default=None, description="cannot be changed")
    credential_kind: Any = Field(default=None, description="cannot be changed")

    modified_on: Any = Field(default=None, description="not looked at")
    modified_by: Any = Field(default=None, description="not looked at")
    phase: Any = Field(default=None, description="not looked at")
    generation: Any = Field(default=None, description="not looked at")
    unsuccessful_register_attempt_status: Any = Field(default=None, description="not looked at")
    provision_attachments: Any = Field(default=None, description="not looked at")
    provision_job: JobChange = _KEPT

    def changes(self, facts: Facts, labels: Labels) -> dict[str, object]:
        """What is to change, by the names inside; `facts` and `labels` are those of the request as it is."""
        left_out = ("optlock", "provision_job", *_FACTS, *_LABELS, *_FIXED, *_MOVING)
        found: dict[str, object] = {
            _INSIDE.get(name, name): getattr(self, name) for name in self.model_fields_set if name not in left_out
        }
        if "coupling" in found:
            found["coupling"] = Coupling(self.provisioned_credentials_tight)
        if "confirm_time" in found:
            found["confirm_time"] = self.confirm_time * 1000
        said = {name: getattr(self, name) for name in _FACTS if name in self.model_fields_set}
        if said:
            found["facts"] = replace(facts, **said)
        said = {name: getattr(self, name) for name in _LABELS if name in self.model_fields_set}
        if said:
            found["labels"] = replace(labels, **said | {"tag_uids": tuple(said.get("tag_uids", labels.tag_uids))})
        if "provision_job" in self.model_fields_set and self.provision_job.model_fields_set:
            found.setdefault("retry_max_attempts", self.provision_job.retry_max_attempts)
        return found

    def check_fixed(self, current: RequestEntity) -> None:
        """Raise `Invalid` where a field that cannot be changed says something else than the entity as it is."""
        for name in _FIXED:
            if name in self.model_fields_set and getattr(self, name) != getattr(current, name):
                field = to_camel(name)
                raise Invalid("read-only", f"{field} cannot be changed; create another request instead", field=field)
