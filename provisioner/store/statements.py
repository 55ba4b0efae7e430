"""From named SQL text to values and back: the only place that knows the order of columns.

1. A value's fields and the table's columns have the same names; enumerations are stored as their text.
2. Reading is by position: a claim reads some sixty columns, and names would cost more than the query.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from importlib.resources import files
from operator import attrgetter
from typing import Any

from provisioner.events import StoredEvent
from provisioner.lifecycle import Phase, State
from provisioner.model import (
    NO_LABELS,
    Account,
    AccountKind,
    Attachment,
    Certificate,
    Confirm,
    Coupling,
    Credential,
    Dossier,
    Entry,
    Facts,
    JobStatus,
    Kind,
    Label,
    Labels,
    Line,
    ProvisionRequest,
    Role,
    Status,
    Token,
    User,
    job_status,
    made,
)
from provisioner.ports import Bound

Row = Sequence[Any]

_REQUEST = [
    "r.id",
    "r.job_id",
    "r.account_id",
    "a.name",
    "r.client_id",
    "r.provision_user_id",
    "u.username",
    "r.device_broker",
    "r.status",
    "r.activates_on",
    "r.expires_on",
    "r.secure_url",
    "r.coupling",
    "r.confirm",
    "r.confirm_time",
    "r.configuration",
    "r.serial_number",
    "r.mac_address",
    "r.vendor",
    "r.brand",
    "r.model",
    "r.device_name",
    "r.forget",
    "r.reuse_key",
    "r.retry_max_attempts",
    "r.keys_sealed",
    "r.phase",
    "r.generation",
    "r.proved_generation",
    "r.retry_count",
    "r.rotate_wanted",
    "r.stop_wanted",
    "r.skipped",
    "r.progress",
    "r.start_on",
    "r.last_refusal",
    "r.created_on",
    "r.created_by",
    "r.modified_on",
    "r.modified_by",
    "r.optlock",
    "r.job_optlock",
    "r.labels",
    "r.topics",
    "r.validity",
    "r.kind",
    "r.record",
    "r.attachments",
]
_EVENT = [
    "e.seq",
    "e.nonce",
    "e.type",
    "e.request_id",
    "e.account_id",
    "e.made_on",
    "e.originator_id",
    "e.facts",
    "a.name",
    "a.uid",
    "p.uid",
    "o.uid",
]
_OWNERS = """JOIN account a ON a.id = e.account_id
  LEFT JOIN account p ON p.id = a.parent_id
  LEFT JOIN account o ON o.id = e.originator_account_id"""
_CREDENTIAL = [f"c.{field.name}" for field in fields(Credential)]
_BOUND = len(_REQUEST) + len(_CREDENTIAL)
_WIDTH = len(_REQUEST)
_CERTIFICATE_FIELDS = [field.name for field in fields(Certificate)]
_CERTIFICATE = [f"k.{name}" for name in _CERTIFICATE_FIELDS]
_REVOKED = ["device_broker", "client_id", "generation", "revoked_on", "reason"]
_FACTS = slice(16, 21)
_NO_FACTS = Facts()
_REQUEST_FIELDS = [field.name for field in fields(ProvisionRequest)]
_CREDENTIAL_FIELDS = [field.name for field in fields(Credential)]


_JOB = [
    "id",
    "keys_changed",
    "keys_sealed",
    "phase",
    "generation",
    "proved_generation",
    "retry_count",
    "rotate_wanted",
    "stop_wanted",
    "skipped",
    "progress",
    "start_on",
    "last_refusal",
    "job_status",
    "job_optlock",
]


_PLACES = {name: f"facts.{name}" for name in (field.name for field in fields(Facts))} | {
    name: f"{name}.value" for name in ("status", "coupling", "confirm", "phase", "kind")
}
"""Where the value of a column is, if not in the request's field of that name."""

_FITS = """NOT EXISTS (
  SELECT 1 FROM (
    SELECT json_extract(term.value, '$.operator') AS operator, json_extract(term.value, '$.values') AS said,
           json_extract(term.value, '$.values[0]') AS first, json_extract(term.value, '$.field') AS field,
           CASE json_extract(term.value, '$.field')
                WHEN 'sn' THEN r.client_id
                WHEN 'createTime' THEN r.created_on
                WHEN 'status' THEN CASE
                  WHEN r.phase IN ('EXPIRED', 'ABANDONED', 'STOPPED', 'FAILED') THEN 'discarded'
                  WHEN json_extract(r.record, '$.allocated_on') IS NULL THEN 'created'
                  WHEN r.phase = 'PENDING' THEN iif(r.status = 'ENABLED', 'allocated', 'created')
                  ELSE iif(r.proved_generation IS NULL, 'connected', 'finished') END
                ELSE json_extract(r.record, json_extract(term.value, '$.path')) END AS found
      FROM json_each(:terms) AS term)
   WHERE NOT coalesce(CASE operator
           WHEN 'in' THEN iif(field = 'deviceData.*',
             EXISTS (SELECT 1 FROM json_each(r.record, '$.data') AS d
                      WHERE d.value IN (SELECT value FROM json_each(said))),
             found IN (SELECT value FROM json_each(said)))
           WHEN 'not' THEN found != first
           WHEN 'like' THEN found LIKE first ESCAPE '!'
           WHEN '<' THEN found < first WHEN '<=' THEN found <= first
           WHEN '>' THEN found > first WHEN '>=' THEN found >= first
           WHEN 'absent' THEN iif(field = 'deviceData.*',
             NOT EXISTS (SELECT 1 FROM json_each(r.record, '$.data')), found IS NULL) END, FALSE))"""
"""Whether a registered device fits every one of `:terms`; `status` as `dps.current_status` has it."""

_ADDED = [column.removeprefix("r.") for column in _REQUEST if column.startswith("r.") and column != "r.labels"]
_values_added = attrgetter(*(_PLACES.get(name, name) for name in _ADDED))


def _members(names: Sequence[str]) -> str:
    """Columns out of the objects of a JSON array."""
    return ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in names)


def _load() -> dict[str, str]:
    text = files("provisioner.store").joinpath("queries.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)[1:]
    columns = {
        "{request}": ", ".join(_REQUEST),
        "{credential}": ", ".join(_CREDENTIAL),
        "{certificate}": ", ".join(_CERTIFICATE),
        "{certificates}": _members(_CERTIFICATE_FIELDS),
        "{certificate_names}": ", ".join(_CERTIFICATE_FIELDS),
        "{revoked}": _members(_REVOKED),
        "{event}": ", ".join(_EVENT),
        "{owners}": _OWNERS,
        "{jobs}": _members(_JOB),
        "{credentials}": _members(_CREDENTIAL_FIELDS),
        "{credential_names}": ", ".join(_CREDENTIAL_FIELDS),
        "{fits}": _FITS,
        "{added}": ", ".join((*_ADDED, "job_status", "labels")),
    }
    statements = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in statements:
            raise ValueError(f"queries.sql has two statements {name}")
        sql = body
        for mark, names in columns.items():
            sql = sql.replace(mark, names)
        statements[name] = sql.strip()
    return statements


SQL = _load()
"""Statement by name, as written in `queries.sql`."""


_PHASES, _STATES, _STATUSES = ({member.value: member for member in kind} for kind in (Phase, State, Status))
_COUPLINGS, _CONFIRMS = ({member.value: member for member in kind} for kind in (Coupling, Confirm))
_KINDS = {member.value: member for member in Kind}


def read_request(row: Row) -> ProvisionRequest:
    """A request from its columns."""
    values = (
        *row[:8],
        _STATUSES[row[8]],
        *row[9:11],
        bool(row[11]),
        _COUPLINGS[row[12]],
        _CONFIRMS[row[13]],
        *row[14:16],
        Facts(*row[_FACTS]) if any(row[_FACTS]) else _NO_FACTS,
        row[21],
        bool(row[22]),
        bool(row[23]),
        *row[24:26],
        _PHASES[row[26]],
        *row[27:30],
        bool(row[30]),
        bool(row[31]),
        bool(row[32]),
        None if row[33] is None else JobStatus(row[33]),
        *row[34:42],
        NO_LABELS if row[42] is None else _read_labels(row[42]),
        *row[43:45],
        _KINDS[row[45]],
        *row[46:_WIDTH],
    )
    return made(ProvisionRequest, dict(zip(_REQUEST_FIELDS, values, strict=True)))


def read_credential(row: Row) -> Credential:
    """A credential from its columns."""
    values = (*row[:6], _COUPLINGS[row[6]], *row[7:10], _STATES[row[10]], *row[11 : len(_CREDENTIAL)])
    return made(Credential, dict(zip(_CREDENTIAL_FIELDS, values, strict=True)))


def read_certificate(row: Row) -> Certificate:
    """A certificate from its columns."""
    return Certificate(*row[:12])


def certificate_key(credential: Credential) -> dict[str, Any]:
    """Parameters that name the certificate of a credential."""
    return {
        "device_broker": credential.device_broker,
        "client_id": credential.client_id,
        "generation": credential.generation,
    }


def read_dossier(row: Row) -> Dossier:
    """A dossier from what `find_claims` and `find_request` select, without the position."""
    bound, last, others = row[_BOUND:]
    return Dossier(
        request=read_request(row),
        credential=read_credential(row[_WIDTH:_BOUND]) if row[_WIDTH] is not None else None,
        bound_generation=bound,
        last_generation=last,
        occupied=others > 0,
    )


def read_request_with_credential(row: Row) -> tuple[ProvisionRequest, Credential]:
    """Both from `{request}, {credential}`."""
    return read_request(row), read_credential(row[_WIDTH:])


def _read_labels(text: str) -> Labels:
    said = json.loads(text)
    return Labels(**said | {"tag_uids": tuple(said["tag_uids"])})


@lru_cache(maxsize=1024)
def _labels_text(labels: Labels) -> str | None:
    return None if labels == NO_LABELS else json.dumps(vars(labels), separators=(",", ":"))


def read_account(row: Row) -> Account:
    """An account from its columns."""
    values = [*row[:4], AccountKind(row[4]), row[5], Coupling(row[6]), *row[7:]]
    return Account(*values)


def read_user(row: Row) -> User:
    """A provision user from its columns."""
    return User(*row)


def read_event(row: Row) -> StoredEvent:
    """An event from its columns."""
    return StoredEvent(*row)


def read_token(row: Row) -> Token:
    """A token from its columns."""
    return Token(row[0], row[1], Role(row[2]), *row[3:])


def read_entry(row: Row) -> Entry:
    """An entry of the journal from its columns."""
    return Entry(row[0], Line(*row[1:11]), row[11])


def job_values(request: ProvisionRequest) -> dict[str, Any]:
    """What `save_jobs` writes. Enumerations as plain text: sqlite3 looks for an adapter for anything else."""
    return {
        "id": request.id,
        "keys_sealed": request.keys_sealed,
        "phase": request.phase.value,
        "generation": request.generation,
        "proved_generation": request.proved_generation,
        "retry_count": request.retry_count,
        "rotate_wanted": request.rotate_wanted,
        "stop_wanted": request.stop_wanted,
        "skipped": request.skipped,
        "progress": request.progress,
        "start_on": request.start_on,
        "last_refusal": request.last_refusal,
        "job_status": job_status(request).value,
        "job_optlock": request.job_optlock,
    }


def request_values(request: ProvisionRequest) -> dict[str, Any]:
    """Parameters of `save_request`, and some it does not ask for."""
    return vars(request) | vars(request.facts) | job_values(request) | {"labels": _labels_text(request.labels)}


def added_values(request: ProvisionRequest) -> tuple[object, ...]:
    """A row of `add_requests`."""
    return (*_values_added(request), job_status(request).value, _labels_text(request.labels))


def row_values(value: Account | Attachment | User | Token | Label | Bound | Certificate) -> dict[str, Any]:
    """Parameters of the statement that adds a row to a small table."""
    return {field.name: getattr(value, field.name) for field in fields(value)}
