"""Exosite's API as its documents tell it: four answers for devices, serial numbers and verbs for vendors."""

import csv
import json
from typing import Any

import httpx2
import pytest

from broker.http.exosite import MANAGE
from provisioner.errors import Unavailable
from provisioner.model import Role
from provisioner.ports import Unit
from provisioner.ranges import Casing, Format, SerialRange
from provisioner.serials import WINDOW
from tests.broker.http.world import NOW, PATH, Operator, World

FORM = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
MODEL = f"{MANAGE}/thermo"
HOUR = 3_600_000


class Vendor:
    """Somebody with a vendor's token."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http = http

    async def post(self, path: str, body: str, status: int = 205, kind: str = FORM["content-type"]) -> str:
        answer = await self.http.post(path, content=body, headers={"content-type": kind})
        assert answer.status_code == status, answer.text
        return answer.text

    async def get(self, path: str, status: int = 200, **parameters: Any) -> str:
        answer = await self.http.get(path, params=parameters)
        assert answer.status_code == status, answer.text
        return answer.text

    async def delete(self, path: str, body: str = "", status: int = 205, kind: str = "text/csv") -> str:
        answer = await self.http.request("DELETE", path, content=body, headers={"content-type": kind} if body else None)
        assert answer.status_code == status, answer.text
        return answer.text


@pytest.fixture
async def vendor(world: World) -> Vendor:
    """Of acme, with the model `thermo`; its devices work at a broker that asks the ledger."""
    world.shelf.asks_ledger = True
    token = await world.token(Role.ADMIN, "acme")
    vendor = Vendor(world.visitor({"x-exosite-token": token}).http)
    await vendor.post(f"{MANAGE}/", "model=thermo")
    return vendor


async def activate(world: World, form: str, *, source: str = "127.0.0.1", **headers: str) -> httpx2.Response:
    """A device calls in from an address."""
    transport = httpx2.ASGITransport(world.app, client=(source, 40_000))
    async with httpx2.AsyncClient(transport=transport, base_url="http://m2.exosite.com") as http:
        return await http.post("/provision/activate", content=form, headers=FORM | headers)


async def answers(world: World, serial_number: str = "00123", **more: Any) -> int:
    return (await activate(world, f"vendor=acme&model=thermo&sn={serial_number}", **more)).status_code


async def state(vendor: Vendor, serial_number: str = "00123") -> str:
    return (await vendor.get(f"{MODEL}/{serial_number}")).split(",")[0]


async def in_force(world: World) -> list[str]:
    """The user names of which the ledger says so."""
    return [credential.username for credential in await world.store.find_live("shelf", "", 10)]


async def settle(world: World) -> None:
    while await world.jobs.step(world.now) <= world.now:
        pass


# -- the document ------------------------------------------------------------------------------------------------------


async def test_a_device_goes_through_the_three_states_of_the_document(world: World, vendor: Vendor) -> None:
    await vendor.post(f"{MODEL}/", "sn=00123&extra=")
    assert await answers(world) == 409  # it has not yet been added to a portal
    await vendor.post(f"{MODEL}/00123", "enable=true&owner=acme", 200)
    assert await state(vendor) == "Pending Activation"
    world.now += WINDOW
    assert await state(vendor) == "Expired"
    assert await answers(world) == 409
    await settle(world)
    assert await answers(world) == 409
    await vendor.post(f"{MODEL}/00123", "enable=true")  # re-enabled
    assert await state(vendor) == "Pending Activation"
    world.now += WINDOW - 1
    answer = await activate(world, "vendor=acme&model=thermo&sn=00123")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert len(answer.text) == 40
    assert int(answer.text, 16)
    assert await state(vendor) == "Activated"
    world.now += HOUR
    assert await answers(world) == 409  # gone through its activation process


async def test_the_other_two_answers_tell_what_is_unknown(world: World, vendor: Vendor) -> None:
    await vendor.post(f"{MODEL}/", "sn=00123")
    for form in ("vendor=acme&model=other&sn=00123", "vendor=other&model=thermo&sn=00123", "model=thermo&sn=00123"):
        assert (await activate(world, form)).status_code == 403
    assert await answers(world, "00124") == 404
    assert (await activate(world, "vendor=acme&model=thermo")).status_code == 404


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ("", 403),
        ("vendor=acme", 403),
        ("vendor=acme&vendor=acme&model=thermo&sn=1", 403),
        ("vendor=%00&model=thermo&sn=1", 403),
        ("vendor=%ff%fe&model=thermo&sn=1", 403),
        ("vendor=acme&model=thermo&sn=", 404),
        ("vendor=acme&model=thermo&sn=1&sn=2", 404),
        ("vendor=acme&model=thermo&sn=%0d%0aSet-Cookie", 404),
        ("vendor=acme&model=thermo&sn=" + "9" * 200, 404),
        ("vendor=acme&model=thermo&sn=" + "9" * 300, 403),
        ("&".join(f"a{number}=1" for number in range(30)), 403),
        ('{"vendor": "acme"}', 403),
        ("' OR 1=1 --", 403),
    ],
)
async def test_whatever_is_sent_gets_an_answer_of_the_document(
    world: World, vendor: Vendor, form: str, status: int
) -> None:
    answer = await activate(world, form)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert len(answer.text) < 80


async def test_another_media_type_holds_no_vendor(world: World, vendor: Vendor) -> None:
    assert await answers(world, **{"content-type": "application/json"}) == 403


async def test_too_much_is_refused_unread(world: World, vendor: Vendor) -> None:
    assert await answers(world, "9" * 70_000) == 413


# -- our own rules -----------------------------------------------------------------------------------------------------


async def enabled(world: World, vendor: Vendor, serial_number: str = "00123") -> None:
    await vendor.post(f"{MODEL}/", f"sn={serial_number}")
    await vendor.post(f"{MODEL}/{serial_number}", "enable=true")


async def test_where_nobody_sees_logins_the_answer_is_given_once(world: World, vendor: Vendor) -> None:
    await enabled(world, vendor)
    assert await answers(world) == 200
    assert await answers(world) == 409
    assert await in_force(world) == ["p.acme.00123.g1"]


async def test_a_lost_answer_is_given_again_to_the_same_address_alone(world: World, vendor: Vendor) -> None:
    world.shelf.sees_logins = True
    await enabled(world, vendor)
    first = await activate(world, "vendor=acme&model=thermo&sn=00123", source="127.0.0.2")
    again = await activate(world, "vendor=acme&model=thermo&sn=00123", source="127.0.0.2")
    assert (first.status_code, again.status_code, again.text) == (200, 200, first.text)
    assert await answers(world, source="127.0.0.3") == 409
    rights = await world.provisioner.device_login("shelf", "00123", first.text.encode(), "00123", world.now)
    assert rights is not None
    assert rights.grant.publish == ("acme/00123/#",)
    assert await answers(world, source="127.0.0.2") == 409


async def test_the_serial_number_and_its_cik_are_the_login_and_nothing_else_is(world: World, vendor: Vendor) -> None:
    world.shelf.sees_logins = True
    await enabled(world, vendor)
    cik = (await activate(world, "vendor=acme&model=thermo&sn=00123")).text.encode()
    other = (await world.operator()).form("dev-1")
    await (await world.operator()).ask(201, "POST", PATH, other)
    for username, password, client_id in (
        ("00123", b"0" * 40, "00123"),
        ("00123", cik, "00124"),  # tight
        ("00124", cik, "00124"),
        ("dev-1", cik, "dev-1"),
    ):
        assert await world.provisioner.device_login("shelf", username, password, client_id, world.now) is None
    assert await world.provisioner.device_login("shelf", "00123", cik, "00123", world.now) is not None


async def test_a_secret_that_is_not_used_in_time_is_taken_back_and_the_device_may_come_again(
    world: World, vendor: Vendor
) -> None:
    world.shelf.sees_logins = True
    await enabled(world, vendor)
    first = (await activate(world, "vendor=acme&model=thermo&sn=00123")).text
    world.now += HOUR
    await settle(world)
    assert await state(vendor) == "Pending Activation"
    again = await activate(world, "vendor=acme&model=thermo&sn=00123")
    assert again.status_code == 200
    assert again.text != first


async def test_enabling_an_activated_device_gives_it_a_new_secret(world: World, vendor: Vendor) -> None:
    await enabled(world, vendor)
    first = await activate(world, "vendor=acme&model=thermo&sn=00123")
    await vendor.post(f"{MODEL}/00123", "enable=true")
    await settle(world)
    assert await in_force(world) == []
    second = await activate(world, "vendor=acme&model=thermo&sn=00123")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.text != second.text
    assert await in_force(world) == ["p.acme.00123.g2"]


async def test_enabling_works_out_of_a_hand_over_under_way(world: World, vendor: Vendor) -> None:
    world.shelf.sees_logins = True
    await enabled(world, vendor)
    await activate(world, "vendor=acme&model=thermo&sn=00123", source="127.0.0.9")  # somebody else was first
    assert await answers(world) == 409
    await vendor.post(f"{MODEL}/00123", "enable=true")
    await settle(world)
    assert await answers(world) == 200


async def test_a_disabled_device_has_to_be_enabled_again(world: World, vendor: Vendor) -> None:
    await enabled(world, vendor)
    assert await answers(world) == 200
    await vendor.post(f"{MODEL}/00123", "disable=true")
    await settle(world)
    assert await in_force(world) == []
    assert await answers(world) == 409
    await vendor.post(f"{MODEL}/00123", "enable=true")
    assert await answers(world) == 200
    await vendor.post(f"{MODEL}/00123", "enable=true")
    await settle(world)
    await vendor.post(f"{MODEL}/00123", "disable=true")  # before it called in
    assert await answers(world) == 409


async def test_new_hardware_takes_the_place_of_the_old(world: World, vendor: Vendor, admin: Operator) -> None:
    await enabled(world, vendor)
    assert await answers(world) == 200
    (old,) = (await admin.get(PATH))["provisionRequest"]
    changed = {"optlock": old["optlock"], "deviceName": "Hall", "configuration": {"room": 7}}
    await admin.ask(200, "PUT", f"{PATH}/{old['id']}", changed)
    await vendor.post(f"{MODEL}/", "sn=00200")
    await vendor.post(f"{MODEL}/00200", "enable=true&oldsn=00123")
    await settle(world)
    assert (await answers(world), await answers(world, "00200")) == (409, 200)
    assert await in_force(world) == ["p.acme.00200.g1"]
    new = (await admin.get(PATH, clientIDs="00200"))["provisionRequest"][0]
    assert (new["deviceName"], new["configuration"]) == ("Hall", {"room": 7})
    await vendor.post(f"{MODEL}/00200", "enable=true&oldsn=00200", 400)
    await vendor.post(f"{MODEL}/00200", "enable=true&oldsn=none", 404)
    await vendor.post(f"{MODEL}/00123", "enable=true&oldsn=00200")  # and back
    await settle(world)
    assert (await answers(world), await answers(world, "00200")) == (200, 409)


async def test_a_remap_is_one_commit(
    world: World, vendor: Vendor, admin: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enabled(world, vendor)
    assert await answers(world) == 200
    await vendor.post(f"{MODEL}/", "sn=00200")
    commit, units = world.store.commit, list[Unit]()
    is_failing = True

    async def commit_or_fail(unit: Unit) -> bool:
        if is_failing:
            raise Unavailable("the database cannot be written")
        units.append(unit)
        return await commit(unit)

    monkeypatch.setattr(world.store, "commit", commit_or_fail)
    for former, successor in (("00123", "00200"), ("00200", "00123"), ("00123", "00200")):  # new, closed, closed
        units.clear()
        is_failing = True
        before = [await vendor.http.get(f"{MODEL}/{one}") for one in (former, successor)]
        await vendor.post(f"{MODEL}/{successor}", f"enable=true&oldsn={former}", 503)
        after = [await vendor.http.get(f"{MODEL}/{one}") for one in (former, successor)]
        assert [(one.status_code, one.text) for one in after] == [(one.status_code, one.text) for one in before]
        is_failing = False
        await vendor.post(f"{MODEL}/{successor}", f"enable=true&oldsn={former}")
        assert len(units) == 1
        await settle(world)
        assert (await state(vendor, former), await state(vendor, successor)) == ("Expired", "Pending Activation")


async def test_who_is_remapped_or_disabled_while_its_credential_goes_does_not_come_back(
    world: World, vendor: Vendor
) -> None:
    for serial_number, verb in (("00123", "enable=true&oldsn=00123"), ("00124", "disable=true")):
        await enabled(world, vendor, serial_number)
        assert await answers(world, serial_number) == 200
        await vendor.post(f"{MODEL}/{serial_number}", "enable=true")  # starts over: the credential is on its way out
        target = serial_number if verb == "disable=true" else "00200"
        if target == "00200":
            await vendor.post(f"{MODEL}/", "sn=00200")
        await vendor.post(f"{MODEL}/{target}", verb)
        await settle(world)
        assert await answers(world, serial_number) == 409
        assert await state(vendor, serial_number) == "Expired"


async def test_each_serial_number_has_its_log(world: World, vendor: Vendor) -> None:
    await vendor.post(f"{MODEL}/", "sn=00123")
    await vendor.get(f"{MODEL}/00123", 204, show="log")
    await vendor.post(f"{MODEL}/00123", "enable=true")
    await activate(world, "vendor=acme&model=thermo&sn=00123", source="127.0.0.5")
    await activate(world, "vendor=acme&model=thermo&sn=00123", source="127.0.0.6")
    await settle(world)
    lines = list(csv.reader((await vendor.get(f"{MODEL}/00123", show="log")).splitlines()))
    assert [(line[1], line[2]) for line in lines if line[1]] == [
        ("127.0.0.5", "claim: minted, offered"),
        ("127.0.0.5", "activate"),
        ("127.0.0.6", "activate: already-provisioned"),
    ]
    assert lines[0][0] == "2027-01-15T08:00:00Z"


async def test_a_secret_does_not_cross_a_network_unencrypted(world: World, vendor: Vendor) -> None:
    await enabled(world, vendor)
    answer = await activate(world, "vendor=acme&model=thermo&sn=00123", source="192.0.2.1")
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "TLS/1.2")
    assert await answers(world) == 200


async def test_guesses_are_limited_and_a_known_device_is_not(world: World, vendor: Vendor) -> None:
    await enabled(world, vendor)
    found = [await answers(world, f"guess-{number}") for number in range(62)]
    assert found[:60] == [404] * 60
    assert found[60:] == [429] * 2
    answer = await activate(world, "vendor=acme&model=thermo&sn=guess")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert await answers(world) == 200


async def test_a_device_broker_that_is_gone_is_no_answer_about_the_device(world: World, vendor: Vendor) -> None:
    await enabled(world, vendor)
    shelf = world.shelves.pop("shelf")  # from the settings
    answer = await activate(world, "vendor=acme&model=thermo&sn=00123")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    world.shelves["shelf"] = shelf
    world.now += 60_000
    await settle(world)
    assert await answers(world) == 200


# -- serial numbers ----------------------------------------------------------------------------------------------------


async def test_serial_numbers_come_singly_repeated_and_as_csv(world: World, vendor: Vendor) -> None:
    await vendor.post(f"{MODEL}/", "sn=a1&extra=first%20one")
    await vendor.post(f"{MODEL}/", "sn[]=b1&sn[]=b2")
    await vendor.post(f"{MODEL}/", 'c1,"one, two"\r\nc2,\r\nc3\r\n', kind="text/csv; charset=utf-8")
    assert (await vendor.get(f"{MODEL}/")).splitlines() == [
        "a1,,first one",
        "b1,,",
        "b2,,",
        'c1,,"one, two"',
        "c2,,",
        "c3,,",
    ]
    assert (await vendor.get(f"{MODEL}/", offset=1, limit=2)).splitlines() == ["b1,,", "b2,,"]
    await vendor.post(f"{MODEL}/", "delete=true&sn=a1")
    await vendor.post(f"{MODEL}/", "delete=true&sn[]=b1&sn[]=b2")
    await vendor.delete(f"{MODEL}/", "c1\r\nc2\r\n")
    await vendor.delete(f"{MODEL}/c3")
    assert await vendor.get(f"{MODEL}/") == ""


async def test_a_list_with_one_known_serial_number_adds_none(vendor: Vendor) -> None:
    await vendor.post(f"{MODEL}/", "sn=c2")
    await vendor.post(f"{MODEL}/", "c1\r\nc2\r\n", 409, "text/csv")
    await vendor.post(f"{MODEL}/", "c3\r\nc3\r\n", 409, "text/csv")
    await vendor.post(f"{MODEL}/", "c4\r\nc 5\r\n", 400, "text/csv")
    assert (await vendor.get(f"{MODEL}/")).splitlines() == ["c2,,"]


RANGES = [
    ({"format": "base10", "length": 6, "first": 10, "last": 20}, ["000010", "000020"], ["000009", "000021", "10"]),
    (
        {"format": "base16", "length": 4, "casing": "upper", "first": 0xAB, "last": 0xCD},
        ["00AB", "00CD"],
        ["00ab", "00AA", "0xAB"],
    ),
    (
        {"format": "mac:48", "casing": "lower", "first": 0x001A2B000000, "last": 0x001A2BFFFFFF},
        ["00:1a:2b:00:00:00", "00:1a:2b:ff:ff:ff"],
        ["00:1A:2B:FF:FF:FF", "00-1a-2b-ff-ff-ff", "00:1a:2c:00:00:00"],
    ),
    ({"format": "mac-48", "casing": "upper", "first": 1, "last": 2}, ["00-00-00-00-00-01"], ["00:00:00:00:00:01"]),
    ({"format": "mac.48", "casing": "lower", "first": 1, "last": 2}, ["0000.0000.0002"], ["0000.0000.0003"]),
]


@pytest.mark.parametrize(("given", "inside", "outside"), RANGES)
async def test_a_range_knows_its_serial_numbers(
    world: World, vendor: Vendor, given: dict[str, Any], inside: list[str], outside: list[str]
) -> None:
    body = json.dumps({"ranges": [given]})
    await vendor.post(f"{MODEL}/", body, kind="application/javascript; charset=utf-8")
    assert json.loads(await vendor.get(f"{MODEL}/", show="ranges")) == {"ranges": [given]}
    for number in inside:
        assert await answers(world, number) == 409
        await vendor.post(f"{MODEL}/{number}", "enable=true&owner=", 200)
        assert await answers(world, number) == 200
    for number in outside:
        assert await answers(world, number) == 404
    await vendor.post(f"{MODEL}/", body, 409, "application/javascript")
    await vendor.delete(f"{MODEL}/", body, kind="application/javascript")
    assert json.loads(await vendor.get(f"{MODEL}/", show="ranges")) == {"ranges": []}
    assert await answers(world, inside[0]) == 404


def test_a_range_spells_what_it_contains() -> None:
    for form in Format:
        for casing in Casing:
            one = SerialRange(form, 12, casing, 0xA0B, 0xA1F)
            assert all(one.spell(number) in one for number in range(0xA0B, 0xA20))
            assert one.spell(0xA0A) not in one


WRONG_RANGES = [
    {"format": "base11", "length": 4, "first": 1, "last": 2},
    {"format": "base10", "first": 1, "last": 2},
    {"format": "base10", "length": 0, "first": 1, "last": 2},
    {"format": "base10", "length": 19, "first": 1, "last": 2},
    {"format": "base10", "length": 2, "first": 1, "last": 100},
    {"format": "base10", "length": 2, "first": 3, "last": 2},
    {"format": "base10", "length": 2, "first": -1, "last": 2},
    {"format": "base10", "length": 2, "first": 1.5, "last": 2},
    {"format": "base16", "length": 4, "first": 1, "last": 2},
    {"format": "base16", "length": 4, "casing": "title", "first": 1, "last": 2},
    {"format": "mac:48", "length": 10, "casing": "upper", "first": 1, "last": 2},
    {"format": "mac:48", "casing": "upper", "first": 1, "last": 2**48},
    {"format": "base10", "length": 2, "first": 1, "last": 2, "more": 1},
]


@pytest.mark.parametrize("given", WRONG_RANGES)
async def test_a_wrong_range_is_refused_with_the_field(world: World, admin: Operator, given: dict[str, Any]) -> None:
    await _add_model(world)
    headers = {"x-exosite-vendor": "acme"}
    answer = await admin.http.post(f"{MODEL}/", json={"ranges": [given]}, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert answer.text.startswith("`ranges.0")


async def _add_model(world: World) -> None:
    world.shelf.asks_ledger = True
    token = await world.token(Role.ADMIN, "acme")
    await Vendor(world.visitor({"authorization": f"Bearer {token}"}).http).post(f"{MANAGE}/", "model=thermo")


async def test_overlapping_ranges_and_serials_of_a_range_are_refused(vendor: Vendor) -> None:
    one = '{"format": "base10", "length": 4, "first": 1, "last": 20}'
    other = '{"format": "base10", "length": 4, "first": 20, "last": 30}'
    await vendor.post(f"{MODEL}/", f'{{"ranges": [{one}, {other}]}}', 400, "application/json")
    await vendor.post(f"{MODEL}/", f'{{"ranges": [{one}]}}', kind="application/json")
    await vendor.post(f"{MODEL}/", f'{{"ranges": [{other}]}}', 409, "application/json")
    await vendor.post(f"{MODEL}/", "sn=0007", 409)


# -- models and roles --------------------------------------------------------------------------------------------------


async def test_models_are_listed_and_deleted_with_what_they_know(world: World, vendor: Vendor) -> None:
    await enabled(world, vendor)
    await vendor.post(f"{MANAGE}/", "model=alpha&user=factory&rid=123")
    assert (await vendor.get(f"{MANAGE}/")).splitlines() == ["alpha", "thermo"]
    await vendor.post(f"{MANAGE}/", "model=alpha", 409)
    await vendor.post(f"{MANAGE}/", "model=beta&user=nobody", 400)
    await vendor.post(f"{MANAGE}/", "model=", 400)
    await vendor.delete(MODEL)
    assert await answers(world) == 403
    await vendor.get(f"{MODEL}/", 404)


async def test_a_vendor_sees_its_own_models_only(world: World, vendor: Vendor, admin: Operator) -> None:
    other = Vendor(world.visitor({"x-exosite-token": await world.token(Role.ADMIN, "globex")}).http)
    await other.get(f"{MODEL}/", 404)
    answer = await other.http.get(f"{MODEL}/", headers={"x-exosite-vendor": "acme"})
    assert answer.status_code == 404
    answer = await admin.http.get(f"{MANAGE}/")
    assert (answer.status_code, "X-Exosite-Vendor" in answer.text) == (400, True)
    answer = await admin.http.get(f"{MANAGE}/", headers={"x-exosite-vendor": "acme"})
    assert answer.text.splitlines() == ["thermo"]
    answer = await world.visitor().http.get(f"{MANAGE}/")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.text.startswith("Send an operator token")


@pytest.mark.parametrize(
    ("method", "path", "body", "allowed"),
    [
        ("POST", f"{MANAGE}/", "model=x{role}", {Role.PREPARER}),
        ("POST", f"{MODEL}/", "sn=x{role}", {Role.PREPARER}),
        ("POST", f"{MODEL}/00123", "enable=true", {Role.PREPARER, Role.INSTALLER}),
        ("POST", f"{MODEL}/00124", "enable=true&oldsn=00123", set()),
        ("DELETE", f"{MODEL}/x", "", {Role.PREPARER}),
        ("GET", f"{MODEL}/00123?show=log", "", set(Role)),
        ("DELETE", MODEL, "", set()),
    ],
)
async def test_each_verb_has_its_roles(
    world: World, vendor: Vendor, method: str, path: str, body: str, allowed: set[Role]
) -> None:
    await vendor.post(f"{MODEL}/", "sn=00124")
    await enabled(world, vendor)
    for role in Role:
        http = world.visitor({"x-exosite-token": await world.token(role, "acme")}).http
        answer = await http.request(method, path, content=body.format(role=role), headers=FORM)
        assert (answer.status_code == 403) == (role not in allowed | {Role.ADMIN}), (role, answer.text)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "enable=false",
        "enable=true&disable=true",
        "disable=true&owner=x",
        "enable=true&colour=red",
        "enable=true&owner=x",
    ],
)
async def test_a_verb_that_is_none_changes_nothing(vendor: Vendor, body: str) -> None:
    await vendor.post(f"{MODEL}/", "sn=00123")
    await vendor.post(f"{MODEL}/00123", body, 400)
    await vendor.get(f"{MODEL}/00123", 204)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("a,b,c", "text/csv"),
        ('"open', "text/csv"),
        ("\x00", "text/csv"),
        ("a,\x1b[31m", "text/csv"),
        ("{", "application/json"),
        ("[]", "application/json"),
        ('{"ranges": 5}', "application/json"),
        ("sn=a", "multipart/form-data"),
        ("extra=a", FORM["content-type"]),
        ("sn=a&delete=false", FORM["content-type"]),
    ],
)
async def test_a_malformed_list_is_refused_whole(vendor: Vendor, body: str, kind: str) -> None:
    await vendor.post(f"{MODEL}/", body, 400, kind)
    assert await vendor.get(f"{MODEL}/") == ""


async def test_the_window_is_a_day_from_enabling(world: World, vendor: Vendor, admin: Operator) -> None:
    await enabled(world, vendor)
    (request,) = (await admin.get(PATH))["provisionRequest"]
    assert (request["activatesOn"], request["expiresOn"]) == (NOW, NOW + 24 * HOUR)
    assert (request["clientId"], request["vendor"], request["model"]) == ("00123", "acme", "thermo")


# -- device brokers that cannot hold it --------------------------------------------------------------------------------


async def test_a_vendor_whose_device_broker_admits_no_serial_numbers_is_told_so(world: World, vendor: Vendor) -> None:
    await vendor.post(f"{MODEL}/", "sn[]=00123&sn[]=00124")
    await vendor.post(f"{MODEL}/00123", "enable=true")
    world.shelf.asks_ledger = False  # the settings were changed: a list of names is kept there now
    for path, form in (
        (f"{MANAGE}/", "model=other"),
        (f"{MODEL}/00124", "enable=true"),
        (f"{MODEL}/00124", "enable=true&oldsn=00123"),
    ):
        told = await vendor.post(path, form, 400)
        assert "device broker shelf" in told
        assert "embedded or webhook" in told
    assert await answers(world) == 409
    assert await state(vendor) == "Pending Activation"
    await settle(world)
    assert "unsupported" in await vendor.get(f"{MODEL}/00123", show="log")
    world.shelf.asks_ledger = True
    assert await answers(world) == 200
