"""What is unknown, mistyped, too large, doubled or hostile: each door tells it in its own product's manner, over HTTP.

Never a 5xx or a traceback, never what was sent, and nothing is half done: what was refused left no request behind.
"""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from broker.http.gate import MAX_BODY, MAX_LIST
from broker.http.server import HttpServer
from provisioner.model import Role
from tests.broker.http.test_enos import RETURN_SAMPLE, group_of
from tests.broker.http.test_provision_entities import NEW
from tests.broker.http.world import PATH, Operator, World

PATIENCE = 60.0
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

Answer = httpx2.Response


def is_problem(answer: Answer) -> None:
    """Everyware's and signageOS's door: the operator API."""
    said = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert said["status"] == answer.status_code
    assert re.fullmatch("[a-z-]+", said["code"])
    assert said["detail"].endswith(".")


def is_enos(answer: Answer) -> None:
    said = answer.json()
    assert list(said) == list(RETURN_SAMPLE)
    assert said["data"] is None
    ours = 99000 + answer.status_code
    assert said["code"] in ((35400, 35404, 35601, 99400) if answer.status_code == 200 else (ours,))


def is_result(answer: Answer) -> None:
    """ProvisionEntities: its result, with rows that tell what is wrong with them, or none."""
    said = answer.json()
    assert list(said) == ["Success", "Message", "Element"]
    assert said["Success"] is False
    if answer.status_code != 200:
        assert said["Element"] == []
        assert said["Message"].endswith(".")
    assert all((row["Status"] == "Invalid") == bool(row["Info"]) for row in said["Element"])


def is_text(answer: Answer) -> None:
    """Exosite."""
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.endswith(".")
    assert "{" not in answer.text


def is_refused(answer: Answer) -> bool:
    if answer.status_code >= 400:
        return True
    said = answer.json() if answer.headers.get("content-type") == JSON else {}
    return bool(said.get("code")) or said.get("Success") is False


@dataclass(frozen=True)
class Door:
    """How a product is spoken to: `form` is a good body, made for a world; `fields` are those to spoil, by path."""

    path: str
    check: Callable[[Answer], None]
    form: Callable[[Operator, World], Any]
    fields: tuple[tuple[str, ...], ...]
    most: int = MAX_BODY
    group: dict[str, Any] = field(default_factory=dict)


def _everyware(admin: Operator, _world: World) -> Any:
    return admin.form("dev-1")


def _signageos(admin: Operator, _world: World) -> Any:
    form = admin.form("", serialNumber="SN-1", macAddress="29:9F:66:C8:00:01", brand="b", model="m", deviceName="n")
    del form["clientId"]
    return form | {"tagUids": [], "confirmedOwnership": True}


def _entities(_admin: Operator, _world: World) -> Any:
    return {"ProvisionElements": [NEW]}


DOORS = {
    "everyware": Door(
        PATH,
        is_problem,
        _everyware,
        tuple(
            (name,)
            for name in (
                "accountId", "clientId", "provisionUserUsername", "provisionUserPassword", "generateActivationKey",
                "retryMaxAttempts", "activatesOn", "expiresOn", "provisionAttachments", "overwriteIfDuplicate",
                "provisionSecureURL", "deviceCredentialsTight", "status", "activationKey", "configuration", "colour",
            )
        ),
    ),
    "signageos": Door(
        PATH,
        is_problem,
        _signageos,
        tuple(
            (name,)
            for name in (
                "serialNumber", "macAddress", "brand", "model", "tagUids", "deviceName", "policyUid", "locationUid",
                "confirmedOwnership",
            )
        ),
    ),
    "enos-create": Door(
        "/dps-service/v2.5/pvs/device?action=create&orgId=acme",
        is_enos,
        lambda _admin, _world: {"groupId": "{group}", "count": 1, "desc": "d", "deviceData": {"version": "1"}},
        (
            ("groupId",), ("count",), ("desc",), ("batchTag",), ("batchTag", "defaultValue"), ("deviceData",),
            ("deviceData", "version"), ("deviceData", "seqNo"), ("deviceData", "capacity"), ("deviceData", "date"),
            ("deviceData", "deviceName"), ("deviceData", "optSN"), ("deviceData", "enum"), ("deviceData", "a\x00b"),
            ("colour",),
        ),
    ),
    "enos-allocate": Door(
        "/dps-service/v2.5/pvs/device?action=allocate&orgId=acme",
        is_enos,
        lambda _admin, _world: {"sn": "UNKNOWN", "deviceData": {"scale": 1}},
        (("sn",), ("deviceData",), ("deviceData", "scale"), ("colour",)),
    ),
    "enos-search": Door(
        "/dps-service/v2.5/pvs/device?action=search",
        is_enos,
        lambda _admin, _world: {"expression": "", "pagination": {"pageNo": 1, "pageSize": 10}},
        (("expression",), ("pagination",), ("pagination", "pageNo"), ("pagination", "pageSize"), ("colour",)),
    ),
    "entities": Door(
        "/v2/provisionEntities",
        is_result,
        _entities,
        (
            ("HaltOnProvisioningError",), ("ProceedOnValidationError",), ("ValidateOnly",), ("PartnerId",),
            ("ProvisionElements",), ("ProvisionElements", "0"), ("Colour",),
            *(("ProvisionElements", "0", name) for name in (*NEW, "FirstName", "UserCustom1", "DeviceName", "Colour")),
        ),
        MAX_LIST,
    ),
}  # fmt: skip

DEEP = 10**6
MALFORMED: dict[str, bytes] = {
    "cut off": b"{",
    "no JSON": b"x",
    "an array": b"[]",
    "a text": b'"x"',
    "a number": b"5",
    "nothing": b"null",
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "too large for a float": b'{"a": 1e999}',
    "too many digits": b'{"a": ' + b"9" * 5000 + b"}",
    "doubled": b'{"a": 1, "a": 2}',
    "a lone surrogate": b'{"a": "\\ud800"}',
    "a control character": b'{"a": "\x01"}',
    "two values": b"{} {}",
    "a comment": b"{} // x",
    "deep": b"[" * 40 + b"]" * 40,
    "a million deep": b"[" * DEEP,
    "too large": b" " * (MAX_LIST + 1),
    "XML": b"<a/>",
}

HOSTILE: dict[str, Any] = {
    "NUL": "a\x00b",
    "an escape sequence": "\x1b[31mred",
    "lines": "a\r\nSet-Cookie: b",
    "long": "x" * 20_000,
    "SQL": "' OR 1=1 --",
    "right to left": "\u202eabc",
    "empty": "",
    "negative": -1,
    "2^63": 2**63,
    "10^400": 10**400,
    "a fraction": 1.5,
    "true": True,
    "null": None,
    "a list": ["x"],
    "nested lists": [[[["x"]]]],
    "an object": {"a": {"b": []}},
}


SEARCH = DOORS["enos-search"].path
UNSHOWN = re.compile(r"[\x00-\x1f\x7f]|\\u00[01]|\\u202e", re.IGNORECASE)
"""What no answer has: control characters, and what turns a line of text around, in JSON or as they are."""


@asynccontextmanager
async def serving(world: World, **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a world's API behind a real socket."""
    server = HttpServer(world.app)
    port = await server.start("127.0.0.1", 0)
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=PATIENCE) as http:
            yield http
    finally:
        await server.stop()


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx2.AsyncClient]:
    async with serving(world, authorization=f"Bearer {await world.token()}") as http:
        yield http


def check_quiet(door: Door, answer: Answer, logs: list[Any]) -> None:
    """It was refused as the product does it, and it was no fault of ours."""
    assert answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text
    assert not [entry for entry in logs if entry["event"] == "http failed"]
    if is_refused(answer):
        door.check(answer)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
async def test_what_is_no_message_is_refused_in_the_doors_manner(
    http: httpx2.AsyncClient, admin: Operator, door: Door
) -> None:
    for name, body in MALFORMED.items():
        with capture_logs() as logs:
            answer = await http.post(door.path, content=body, headers={"content-type": JSON})
        check_quiet(door, answer, logs)
        assert is_refused(answer), name
        assert (answer.status_code == 413) == (len(body) > door.most), name
    for kind in ("text/plain", FORM, "multipart/form-data; boundary=x", ""):
        answer = await http.post(door.path, content=b"{}", headers={"content-type": kind})
        assert answer.status_code == 415
        door.check(answer)
    answer = await http.post(door.path, content=_pieces(door.most + 1), headers={"content-type": JSON})
    assert answer.status_code == 413
    door.check(answer)
    for method in ("PATCH", "TRACE"):
        answer = await http.request(method, door.path)
        assert answer.status_code == 405
        assert "POST" in answer.headers["allow"]
        door.check(answer)
    answer = await http.post(door.path, content=b"{}", headers={"authorization": "Bearer x", "content-type": JSON})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    door.check(answer)
    assert (await admin.get(PATH))["provisionRequest"] == []


async def _pieces(size: int) -> AsyncIterator[bytes]:
    """A body whose length nobody announces."""
    for _ in range(size // 1024 + 1):
        yield b" " * 1024


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
async def test_a_hostile_value_is_refused_in_the_doors_manner_or_kept_as_it_is(
    http: httpx2.AsyncClient, admin: Operator, world: World, door: Door
) -> None:
    rules = {"name": "line", "storageCeilingGB": 10, "provisionUserUsername": "factory"}
    await admin.ask(201, "POST", "/v2/policies", rules)
    group = await group_of(admin, world)
    for where in door.fields:
        for name, value in HOSTILE.items():
            text = json.dumps(_spoiled(door.form(admin, world), where, value)).replace("{group}", group["groupId"])
            with capture_logs() as logs:
                answer = await http.post(door.path, content=text.encode(), headers={"content-type": JSON})
            check_quiet(door, answer, logs)
            assert not UNSHOWN.search(answer.text), (where, name, answer.text)
            if not is_refused(answer):
                assert not UNSHOWN.search((await http.post(SEARCH, json={"expression": ""})).text), (where, name)
                for request in (await admin.get(PATH))["provisionRequest"]:
                    assert not UNSHOWN.search(json.dumps(request)), (where, name, request)
                    await admin.http.post(f"{PATH}/{request['id']}/stop")
                    await admin.ask(204, "DELETE", f"{PATH}/{request['id']}")
        assert (await admin.get(PATH))["provisionRequest"] == []


def _spoiled(form: Any, where: tuple[str, ...], value: Any) -> Any:
    """`form` with that value there; what is on the way is made."""
    if not where:
        return value
    first, rest = where[0], where[1:]
    if isinstance(form, list):
        return [_spoiled(form[0], rest, value)]
    inner = form.get(first, {}) if isinstance(form, dict) else {}
    return {**form, first: _spoiled(inner, rest, value)}


# -- Exosite takes forms and CSV ---------------------------------------------------------------------------------------

MANAGE = "/provision/manage/model"
MODEL = f"{MANAGE}/thermo"
EXOSITE: list[tuple[str, str, str, bytes, int]] = [
    ("POST", f"{MANAGE}/", FORM, b"", 400),
    ("POST", f"{MANAGE}/", FORM, b"model=", 400),
    ("POST", f"{MANAGE}/", FORM, b"model=a%00b", 400),
    ("POST", f"{MANAGE}/", FORM, b"model=a%0d%0ab", 400),
    ("POST", f"{MANAGE}/", FORM, b"model=%ff%fe", 400),
    ("POST", f"{MANAGE}/", FORM, b"model=" + b"x" * 300, 400),
    ("POST", f"{MANAGE}/", FORM, b"model=x&colour=red", 400),
    ("POST", f"{MANAGE}/", FORM, b"model=thermo", 409),
    ("POST", f"{MANAGE}/", FORM, b"a&" * 30_000, 400),
    ("POST", f"{MANAGE}/", FORM, b"x" * (MAX_LIST + 1), 413),
    ("POST", f"{MODEL}/", FORM, b"sn=a b", 400),
    ("POST", f"{MODEL}/", FORM, b"sn=", 400),
    ("POST", f"{MODEL}/", FORM, b"sn=1&extra=%1b[31m", 400),
    ("POST", f"{MODEL}/", FORM, b"sn=1&colour=red", 400),
    ("POST", f"{MODEL}/", FORM, b"sn=7", 409),
    ("POST", f"{MODEL}/", "text/csv", b"8\r\n9,a,b\r\n", 400),
    ("POST", f"{MODEL}/", "text/csv", b'8,"a', 400),
    ("POST", f"{MODEL}/", "text/csv", b"8\r\n\xff\r\n", 400),
    ("POST", f"{MODEL}/", "text/csv", b"8\r\n8\r\n", 409),
    ("POST", f"{MODEL}/", "text/csv", b"8\r\n9\x00\r\n", 400),
    ("POST", f"{MODEL}/", "text/plain", b"8", 400),
    ("POST", f"{MODEL}/", JSON, b'{"ranges": [{"format": "base10", "first": 1e999}]}', 400),
    ("POST", f"{MODEL}/", JSON, b'{"ranges": [{"format": "base10", "length": 2, "first": "1", "last": 2}]}', 400),
    ("POST", f"{MODEL}/", JSON, b'{"ranges": 5}', 400),
    ("POST", f"{MODEL}/", JSON, b'{"ranges": [], "ranges": []}', 400),
    ("POST", f"{MODEL}/", JSON, b'{"colour": []}', 400),
    ("POST", f"{MODEL}/", JSON, b"[" * DEEP, 400),
    ("POST", f"{MODEL}/", JSON, b'{"ranges": [' + b"9" * 5000 + b"]}", 400),
    ("POST", f"{MODEL}/7", FORM, b"enable=perhaps", 400),
    ("POST", f"{MODEL}/7", FORM, b"enable=true&disable=true", 400),
    ("POST", f"{MODEL}/7", FORM, b"enable=true&owner=nobody", 400),
    ("POST", f"{MODEL}/8", FORM, b"enable=true", 404),
    ("POST", f"{MODEL}/%00", FORM, b"enable=true", 404),
    ("POST", f"{MODEL}/{'9' * 300}", FORM, b"enable=true", 404),
    ("GET", f"{MODEL}/8", "", b"", 404),
    ("GET", f"{MODEL}/?show=all", "", b"", 400),
    ("GET", f"{MODEL}/?limit=1e3", "", b"", 400),
    ("GET", f"{MODEL}/?offset=99999999999999999999", "", b"", 400),
    ("GET", f"{MANAGE}/none/", "", b"", 404),
    ("GET", "/provision/none", "", b"", 404),
    ("PUT", f"{MODEL}/7", FORM, b"", 405),
    ("DELETE", f"{MODEL}/", JSON, b"{", 400),
]


@pytest.mark.parametrize(("method", "path", "kind", "body", "status"), EXOSITE)
async def test_exosites_vendors_are_told_in_a_sentence(
    world: World, method: str, path: str, kind: str, body: bytes, status: int
) -> None:
    world.shelf.asks_ledger = True
    async with serving(world, **{"x-exosite-token": await world.token(Role.ADMIN, "acme")}) as http:
        await http.post(f"{MANAGE}/", content=b"model=thermo", headers={"content-type": FORM})
        await http.post(f"{MODEL}/", content=b"sn=7", headers={"content-type": FORM})
        with capture_logs() as logs:
            answer = await http.request(method, path, content=body, headers={"content-type": kind})
        assert answer.status_code == status, answer.text
        assert not [entry for entry in logs if entry["event"] == "http failed"]
        is_text(answer)
        assert (await http.get(f"{MODEL}/")).text == "7,,\r\n"
        assert (await http.get(f"{MANAGE}/")).text == "thermo\r\n"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 403),
        (b"\xff\xfe", 403),
        (b"vendor=acme&model=thermo&sn=%00", 404),
        (b"vendor=acme&model=thermo&sn=7%0d%0aX: y", 404),
        (b"vendor=acme&model=thermo&sn=%ed%a0%80", 403),
        (b"vendor=acme&model=thermo&sn=7&sn=7", 404),
        (b"vendor=acme&model=thermo&sn=" + b"9" * 5000, 403),
        (b"[" * 60_000, 403),
        (b"&" * 60_000, 403),
        (b"x" * (MAX_BODY + 1), 413),
    ],
)
async def test_exosites_devices_are_told_with_its_codes(world: World, body: bytes, status: int) -> None:
    world.shelf.asks_ledger = True
    async with serving(world, **{"x-exosite-token": await world.token(Role.ADMIN, "acme")}) as http:
        await http.post(f"{MANAGE}/", content=b"model=thermo", headers={"content-type": FORM})
        answer = await http.post("/provision/activate", content=body, headers={"content-type": FORM})
        assert answer.status_code == status
        is_text(answer)
        for method in ("GET", "PUT", "DELETE"):
            answer = await http.request(method, "/provision/activate")
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
            is_text(answer)
