"""What the operator API takes: shapes and types, no rule of the domain.

1. Unknown fields are refused and types are strict; a time is epoch milliseconds.
2. In a creator absent and null mean the default. In a change absent means "as it is", null empties what may be empty.
3. Texts are bounded here, so that nothing behind has to care; what a name may look like is decided inside.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic.alias_generators import to_camel

from provisioner.attachments import AttachmentType, Wanted
from provisioner.creation import NewRequest
from provisioner.entities import NewAccount
from provisioner.errors import Invalid
from provisioner.model import AccountKind, Confirm, Coupling, Facts, Kind, Labels, Role, Secret, Status

MAX_NUMBER = 2**53 - 1
"""The largest integer that every JSON parser keeps exact."""

MAX_TIME = 253_402_300_799_999
"""The last millisecond of the year 9999: what calendars can say."""

Id = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Time = Annotated[int, Field(ge=0, le=MAX_TIME, description="epoch milliseconds")]
Number = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Text = Annotated[str, Field(min_length=1, max_length=255)]
Uid = Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="32 hex digits")]
Hidden = Annotated[SecretStr, Field(min_length=1, max_length=1024)]
Word = Field(strict=False)
"""JSON has no enumerations: their words are texts."""


def _digits(text: object) -> object:
    if isinstance(text, str) and not (text.isascii() and text.isdigit()):
        raise ValueError("write it in digits")
    return text


Digits = BeforeValidator(_digits)
"""A number in a path or query: pydantic alone would take `1.0` and `1_0` as well."""


class Body(BaseModel):
    """Something the API takes."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, hide_input_in_errors=True, alias_generator=to_camel
    )


class Creator(Body):
    """Something to be made: many clients write null for what they do not say."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, said: Any) -> Any:
        return {name: value for name, value in said.items() if value is not None} if isinstance(said, dict) else said


class AccountCreator(Creator):
    """A new tenant."""

    name: Text
    kind: Annotated[AccountKind, Word]
    display_name: Text | None = None
    parent_id: Id | None = None
    coupling: Annotated[Coupling, Word] = Coupling.STRICT
    quota: Number | None = None
    device_broker: Text | None = None

    def inside(self) -> NewAccount:
        """The same as the inside takes it."""
        return NewAccount(
            self.name,
            self.kind,
            self.display_name or "",
            self.parent_id,
            self.coupling,
            self.quota,
            self.device_broker,
        )


class AccountMove(Creator):
    """Where the devices of future requests work."""

    device_broker: Text


class UserCreator(Creator):
    """A new login for devices to start with; without a password one is generated and shown once."""

    username: Text
    password: Hidden | None = None
    account_id: Id | None = None


class PasswordChange(Creator):
    """A new password; without one it is generated and shown once."""

    password: Hidden | None = None


class TokenCreator(Creator):
    """A new operator token; without an account it sees what its creator sees."""

    name: Text
    role: Annotated[Role, Word]
    account_id: Id | None = None


class AttachmentForm(Creator):
    """A file that the device gets with its credential: one that is kept (`id`), or its content."""

    type: Annotated[AttachmentType, Word]
    id: Uid | None = None
    name: Text | None = Field(default=None, description="a file name; absent: that of the file kept")
    content: str | None = Field(default=None, description="base64", max_length=65_536)

    def inside(self) -> Wanted:
        """The same as the inside takes it."""
        return Wanted(self.type, self.id, self.name or "", None if self.content is None else _decoded(self.content))


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise Invalid("invalid-content", "content must be base64", field="provisionAttachments") from None


class RequestCreator(Creator):
    """A new provision request: Everyware's ProvisionRequestCreator and our additions."""

    account_id: Id
    client_id: Text | None = Field(default=None, description="absent: the serialNumber, else the macAddress")
    provision_user_username: Text | None = Field(default=None, description="absent: the one that the policy names")
    provision_user_password: Hidden | None = Field(default=None, description="of a user that is to be made")
    generate_activation_key: bool = True
    activation_key: Hidden | None = Field(default=None, description="instead of a generated one; 112 bits at least")
    retry_max_attempts: Number | None = None
    activates_on: Time | None = Field(default=None, description="absent: now")
    expires_on: Time | None = Field(default=None, description="absent: never")
    status: Annotated[Status, Word] = Status.ENABLED
    overwrite_if_duplicate: bool = False
    provision_secure_url: bool | None = Field(default=None, alias="provisionSecureURL")
    device_credentials_tight: Annotated[Coupling, Word] = Coupling.INHERITED
    credential_kind: Annotated[Kind, Word] | None = Field(
        default=None, description="x509: a certificate on the device's own key, and provisionSecureURL"
    )
    confirm: Annotated[Confirm, Word] | None = None
    confirm_time: Number | None = Field(default=None, description="seconds")
    configuration: dict[str, Any] | None = None
    forget: bool = False
    reuse_key: bool = True
    serial_number: Text | None = None
    mac_address: Text | None = None
    vendor: Text | None = None
    brand: Text | None = None
    model: Text | None = None
    device_name: Text | None = None
    tag_uids: list[Uid] = Field(default_factory=list, max_length=32)
    location_uid: Uid | None = None
    policy_uid: Uid | None = None
    confirmed_ownership: bool | None = None
    provision_attachments: list[AttachmentForm] = Field(default_factory=list, max_length=10)

    def inside(self) -> NewRequest:
        """The same as the inside takes it."""
        return NewRequest(
            account=self.account_id,
            client_id=self.client_id or "",
            username=self.provision_user_username or "",
            user_password=secret(self.provision_user_password),
            generate_key=self.generate_activation_key,
            activation_key=secret(self.activation_key),
            retry_max_attempts=self.retry_max_attempts,
            activates_on=self.activates_on,
            expires_on=self.expires_on,
            overwrite=self.overwrite_if_duplicate,
            secure_url=self.provision_secure_url,
            coupling=self.device_credentials_tight,
            kind=self.credential_kind,
            confirm=self.confirm,
            confirm_time=self.confirm_time,
            configuration=self.configuration,
            facts=Facts(self.serial_number, self.mac_address, self.vendor, self.brand, self.model),
            device_name=self.device_name,
            labels=Labels(
                tag_uids=tuple(self.tag_uids),
                location_uid=self.location_uid,
                policy_uid=self.policy_uid,
                confirmed_ownership=self.confirmed_ownership,
            ),
            attachments=tuple(one.inside() for one in self.provision_attachments),
            forget=self.forget,
            reuse_key=self.reuse_key,
            status=self.status,
        )


class Touch(Body):
    """What a verb may carry: the optlock that the operator last saw."""

    optlock: Id | None = None


class Reopening(Touch):
    """What reopen may carry besides: a new key, another window."""

    generate_activation_key: bool = False
    activates_on: Time | None = None
    expires_on: Time | None = None


def secret(text: SecretStr | None) -> Secret | None:
    """The same secret as the inside knows it."""
    return None if text is None else Secret(text.get_secret_value())
