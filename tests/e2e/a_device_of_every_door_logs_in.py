"""One program, and a device through each door in turn: it claims, or activates, and works with what it got.

ProvisionEntities' device is activated by what its owner found in the mailbox: a real mail server takes the letter.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

import pytest

from tests.broker.test_mail import Mailbox, serving
from tests.e2e.independent import Mode
from tests.e2e.program import FLOOR_PASSWORD, FLOOR_USER, Request, Site, StartProgram, fresh_mac, fresh_name

PATIENCE = 30.0
NOBODY = "00000000-0000-0000-0000-000000000000"


class Post(Mailbox):
    """A mail server whose owner waits for a letter."""

    def __init__(self) -> None:
        super().__init__()
        self._arrived = asyncio.Event()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802  # aiosmtpd's name
        answer = await super().handle_DATA(server, session, envelope)
        self._arrived.set()
        return answer

    async def letter(self) -> EmailMessage:
        """The first one."""
        async with asyncio.timeout(PATIENCE):
            await self._arrived.wait()
        return self.letters[0]


@dataclass
class Works:
    """What each door is asked with: an account, a policy that names the provision user, a mailbox."""

    site: Site
    post: Post
    account: str
    account_id: int
    policy: dict[str, Any]

    async def ask(self, path: str, body: Any = None, **more: Any) -> Any:
        """The JSON of a good answer to a POST."""
        return await self.site.operator.ask("POST", path, json=body, **more)

    async def newest(self) -> dict[str, Any]:
        """The request that was made last."""
        listed = await self.site.operator.ask("GET", "/v2/provisionRequests", params={"limit": 1})
        return dict(listed["provisionRequest"][0])

    async def key(self) -> str:
        """Its activation key, which an admin may see."""
        path = f"/v2/provisionRequests/{(await self.newest())['id']}/activationKey"
        return str((await self.site.operator.ask("GET", path))["activationKey"])

    async def claimed(self, client_id: str, key: str, mode: Mode = "proof", **facts: str) -> dict[str, Any]:
        """The login that a device of this key is offered."""
        self.site.program.secrets.add(key)
        device = self.site.device(client_id, key, mode=mode)
        reply = await device.claim(device=facts)
        assert reply.reason == "offer"
        return reply.credentials


async def everyware(works: Works) -> dict[str, Any]:
    form = {
        "accountId": works.account_id,
        "clientId": fresh_name(),
        "provisionUserUsername": FLOOR_USER,
        "provisionUserPassword": FLOOR_PASSWORD,
        "generateActivationKey": True,
        "retryMaxAttempts": 3,
        "overwriteIfDuplicate": False,
        "provisionSecureURL": False,
        "deviceCredentialsTight": "STRICT",
    }
    made = await works.ask("/v2/provisionRequests", form)
    return await works.claimed(made["clientId"], made["activationKey"])


async def signageos(works: Works) -> dict[str, Any]:
    unit = {"serialNumber": fresh_name("SN"), "macAddress": fresh_mac(), "brand": "b", "model": "m"}
    tag = await works.ask("/v2/tags", {"name": fresh_name("tag")})
    labels = {"policyUid": works.policy["uid"], "tagUids": [tag["uid"]], "confirmedOwnership": True}
    made = await works.ask("/v2/provisionRequests", {"accountId": works.account_id, **unit, **labels})
    assert made["clientId"] == unit["serialNumber"]
    return await works.claimed(made["clientId"], made["activationKey"], "hpke", **unit)


async def exosite(works: Works) -> dict[str, Any]:
    sn, program, http = fresh_name("sn"), works.site.program, works.site.operator.http
    headers = {"X-Exosite-Vendor": works.account}
    manage = "/provision/manage/model"
    for path, form in (
        (f"{manage}/", {"model": "thermo", "user": FLOOR_USER}),
        (f"{manage}/thermo/", {"sn": sn}),
        (f"{manage}/thermo/{sn}", {"enable": "true"}),
    ):
        assert (await http.post(path, data=form, headers=headers)).status_code == 205
    told = await http.post("/provision/activate", data={"vendor": works.account, "model": "thermo", "sn": sn})
    assert told.status_code == 200
    assert re.fullmatch("[0-9a-f]{40}", told.text)
    program.secrets.add(told.text)
    return {"username": sn, "password": told.text, "clientId": sn}


async def provision_entities(works: Works) -> dict[str, Any]:
    row = {
        "Email": "ann@example.com",
        "FirstName": "Ann",
        "UserGroup": "",
        "CompanyName": works.account,
        "DeviceId": NOBODY,
        "DeviceName": "Hall",
        "PolicyName": works.policy["name"],
        "CurrentStorageGB": 5,
        "SendActivationEmail": True,
    }
    said = await works.ask("/v2/provisionEntities", {"ProvisionElements": [row]})
    (element,) = said["Element"]
    assert (said["Success"], element["Status"]) == (True, "Provisioned")
    letter = await works.post.letter()
    assert (letter["To"], letter["From"]) == ("ann@example.com", "provisioner@plant.example")
    text = letter.get_content()
    found = dict(re.findall(r"(?m)^ *(client id|activation code) +(\S+)\r?$", text))
    assert found == {"client id": element["ClientId"], "activation code": element["ActivationCode"]}
    assert "Hall" in text
    return await works.claimed(found["client id"], found["activation code"], "ctr")


async def enos(works: Works) -> dict[str, Any]:
    group = await works.ask(
        "/v2/dps/groups",
        {
            "accountId": works.account_id,
            "name": fresh_name("group"),
            "policyUid": works.policy["uid"],
            "productKey": "pump-2",
            "regionId": "eu",
        },
    )
    door = "/dps-service/v2.5/pvs/device"
    asked = {"orgId": works.account}
    body = {"groupId": group["groupId"], "count": 1}
    (sn,) = (await works.ask(door, body, params={"action": "create", **asked}))["data"]
    key = await works.key()
    body = {"sn": sn, "deviceData": {"max_capacity": 1.0, "scale": 1}}
    told = await works.ask(door, body, params={"action": "allocate", **asked})
    assert (told["code"], told["data"]["status"]["currentStatus"]) == (0, "allocated")
    return await works.claimed(sn, key, "plain")


DOORS: dict[str, Callable[[Works], Awaitable[dict[str, Any]]]] = {
    "everyware": everyware,
    "signageos": signageos,
    "exosite": exosite,
    "provision-entities": provision_entities,
    "enos": enos,
}


@pytest.mark.timeout(180)
async def test_one_device_through_each_door_in_turn(start_program: StartProgram) -> None:
    post = Post()
    async with serving(post) as port:
        program = start_program(
            {
                "PROVISIONER_MAIL__SERVER": f"127.0.0.1:{port}",
                "PROVISIONER_MAIL__SECURITY": "none",
                "PROVISIONER_MAIL__SENDER": "provisioner@plant.example",
            }
        )
        program.secrets.add(FLOOR_PASSWORD)
        async with await Site.at(program) as site:
            account = fresh_name("plant")
            account_id = await site.account(account)
            await site.operator.ask("POST", "/v2/users", json={"username": FLOOR_USER, "password": FLOOR_PASSWORD})
            rules = {"name": "line", "provisionUserUsername": FLOOR_USER, "storageCeilingGB": 10}
            policy = await site.operator.ask("POST", "/v2/policies", json=rules)
            works = Works(site, post, account, account_id, policy)
            for door, register in DOORS.items():
                login = await register(works)
                device = site.device(login["clientId"], "")
                async with await device.login(program.device_broker, login) as session:
                    await session.ping()
                    await session.publish(f"{account}/{login['clientId']}/up", b"hello", 1)
                made = await works.newest()
                assert made["clientId"] == login["clientId"], door
                now = await Request(site.operator, made["id"], "", made["clientId"], made).until("CONFIRMED")
                assert now["provisionJob"]["status"] == "COMPLETED", door
            types = [one["event"]["type"] for one in (await site.operator.ask("GET", "/v2/events"))["event"]]
            applied = [kind for kind in types if kind == "Device.ProvisioningRecipeApplied"]
            assert len(applied) == len(DOORS)
