"""The embedded device broker and a Mosquitto at once: an account's devices work where the account says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.beside import beside_files
from tests.e2e.packets import RefusedError
from tests.e2e.program import Program, Site


async def test_an_account_names_its_device_broker(tmp_path: Path) -> None:
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    real, settings = await beside_files(folder)
    await asyncio.to_thread(real.start)
    given = {f"PROVISIONER_DEVICE_BROKERS__PLANT__{key}": value for key, value in settings.items()}
    given["PROVISIONER_DEVICE_BROKERS__PLANT__URL"] = f"mqtt://127.0.0.1:{real.port}"
    program = await asyncio.to_thread(Program(tmp_path / "data", given).start)
    mosquitto = ("127.0.0.1", real.port)
    try:
        async with await Site.at(program) as site:
            body = {"name": "south", "kind": "TARGET", "deviceBroker": "plant", "coupling": "LOOSE"}
            program.accounts["south"] = (await site.operator.ask("POST", "/v2/accounts", json=body))["id"]
            there, _ = await site.unit(account="south", deviceCredentialsTight="LOOSE")
            here, _ = await site.unit(account="north")
            offers = await asyncio.gather(there.provision(), here.provision())
            at_mosquitto, embedded = (offer.credentials for offer in offers)
            async with await there.login(mosquitto, at_mosquitto), await here.login(program.device_broker, embedded):
                pass
            for device, credentials, elsewhere in (
                (there, at_mosquitto, program.device_broker),
                (here, embedded, mosquitto),
            ):
                with pytest.raises(RefusedError):
                    await device.login(elsewhere, credentials)
            listed = (await site.operator.ask("GET", "/v2/deviceBrokers"))["deviceBroker"]
            assert [(one["name"], one["kind"], one["trouble"]) for one in listed] == [
                ("embedded", "embedded", None),
                ("plant", "mosquitto-files", None),
            ]
            # An account that moves takes its next devices along.
            path = f"/v2/accounts/{program.accounts['north']}/move"
            await site.operator.ask("POST", path, json={"deviceBroker": "plant"})
            mover, _ = await site.unit(account="north", deviceCredentialsTight="LOOSE")
            async with await mover.login(mosquitto, (await mover.provision()).credentials):
                pass
    finally:
        await asyncio.to_thread(program.stop)
        await asyncio.to_thread(real.kill)
