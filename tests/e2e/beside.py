"""A real Mosquitto, and the real program that puts credentials into it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.e2e.program import Program, Site
from tests.mosquitto import DYNSEC_ADMIN, Mosquitto, dynsec_lines, password_line

OPERATORS_OWN = ("ops", "their-own-password")


async def beside_files(folder: Path) -> tuple[Mosquitto, Mapping[str, str]]:
    """Mosquitto with its files, and the settings of a program that puts names into them."""
    passwords, rights = folder / "passwords", folder / "rights"
    passwords.write_text(password_line(*OPERATORS_OWN))
    rights.write_text("")
    real = Mosquitto(folder, f"password_file {passwords}", f"acl_file {rights}")
    return real, {
        "KIND": "mosquitto-files",
        "PASSWORD_FILE": str(passwords),
        "ACL_FILE": str(rights),
        "PID_FILE": str(real.pid_file),
    }


async def beside_dynsec(folder: Path) -> tuple[Mosquitto, Mapping[str, str]]:
    """Mosquitto with its dynamic security plug-in, and the settings of a program that commands it."""
    login = folder / "login"
    login.touch(mode=0o600)
    login.write_text("\n".join(DYNSEC_ADMIN))
    real = Mosquitto(folder, *dynsec_lines(folder))
    return real, {
        "KIND": "mosquitto-dynsec",
        "CONTROL_URL": f"mqtt://127.0.0.1:{real.port}",
        "LOGIN_FILE": str(login),
    }


BESIDE = {"mosquitto-dynsec": beside_dynsec, "mosquitto-files": beside_files}


class Beside:
    """A running Mosquitto and a running program that puts credentials into it."""

    def __init__(self, real: Mosquitto, site: Site, kind: str) -> None:
        self.real = real
        self.site = site
        self.coupling = "STRICT" if kind == "mosquitto-dynsec" else "LOOSE"
        self.operators_own = DYNSEC_ADMIN if kind == "mosquitto-dynsec" else OPERATORS_OWN
        self.address = ("127.0.0.1", real.port)


@asynccontextmanager
async def beside(kind: str, folder: Path) -> AsyncIterator[Beside]:
    """Both running, over folders in `folder`."""
    place = folder / "mosquitto"
    place.mkdir()
    real, settings = await BESIDE[kind](place)
    async with AsyncExitStack() as stack:
        stack.callback(real.kill)
        await asyncio.to_thread(real.start)
        given = {f"PROVISIONER_DEVICE_BROKER__{key}": value for key, value in settings.items()}
        given["PROVISIONER_DEVICE_BROKER__URL"] = f"mqtt://127.0.0.1:{real.port}"
        program = await asyncio.to_thread(Program(folder / "data", given).start)
        stack.push_async_callback(asyncio.to_thread, program.stop)
        site = await stack.enter_async_context(await Site.at(program))
        yield Beside(real, site, kind)
