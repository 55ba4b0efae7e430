"""A ledger is copied under a running server and put back by command: nobody is locked out, no name is used twice."""

import asyncio
import stat
from pathlib import Path

from tests.e2e.program import Site, StartProgram
from tests.e2e.the_keys_change_while_devices_claim import provisioner


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


async def test_by_command(start_program: StartProgram, tmp_path: Path) -> None:
    program = start_program()
    file = tmp_path / "monday.db"
    async with await Site.at(program) as site:
        _, request, credentials = await site.confirmed()
        offered, unconfirmed = await site.unit()
        former = await offered.provision()
        unclaimed = await site.request()
        told = await asyncio.to_thread(provisioner, program.data, "backup", str(file), "--json")
        assert (told["requests"], [one["epoch"] for one in told["keys"]]) == (3, [1])
        assert mode_of(file) == 0o600
        lost = await site.device(unclaimed.client_id, unclaimed.key).provision()
        said = await asyncio.to_thread(provisioner, program.data, "restore", str(file), "--yes", code=1)
        assert "is in use by another provisioner; stop it first" in said
    said = provisioner(program.data, "backup", str(file), code=1)
    assert "exists already: name a new file" in said
    program.stop()
    said = provisioner(program.data, "restore", str(file), code=1)
    assert "--yes replaces the ledger without asking" in said
    told = provisioner(program.data, "restore", str(file), "--yes", "--json")
    assert (told["requests"], mode_of(Path(told["kept"]))) == (3, 0o600)
    program.start()
    async with await Site.at(program) as site:
        device = site.device(request.client_id, request.key)
        await (await device.login(program.device_broker, credentials)).close()
        for again, before in ((unconfirmed, former), (unclaimed, lost)):
            device = site.device(again.client_id, again.key)
            offer = await device.provision()
            assert offer.credentials["username"] != before.credentials["username"]
            assert offer.generation > before.generation + 1000
            await (await device.login(program.device_broker, offer.credentials)).close()


async def test_a_backup_from_before_a_rotation_needs_its_key(start_program: StartProgram, tmp_path: Path) -> None:
    program = start_program()
    program.stop()
    provisioner(program.data, "backup", str(tmp_path / "old.db"))
    provisioner(program.data, "keys", "rotate")
    said = provisioner(program.data, "restore", str(tmp_path / "old.db"), "--yes", code=1)
    assert "This backup cannot be opened: the ledger needs key vault-1" in said
