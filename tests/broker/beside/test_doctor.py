"""The doctor on a real Mosquitto: nothing on what we ship, and each planted mistake with the line that mends it."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.beside.doctor import Patient, consult, examine
from broker.beside.findings import Finding, Verdict
from broker.beside.setup import Kind, Login, plan
from broker.mqtt.topics import Topics
from broker.mqtt.upstream import Site
from tests.mosquitto import BRIDGE, Mosquitto, shipped
from tests.programs import needed

DEVICES = Login("factory", "the-line-password-7")
NOBODY = Login("somebody", "else-entirely-5")
Start = Callable[..., Mosquitto]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a Mosquitto with what we ship, after `spoil` was done to the folder and the settings."""
    started: list[Mosquitto] = []

    def begin(spoil: Callable[[Path, str], str] = lambda _, settings: settings) -> Mosquitto:
        settings = shipped(tmp_path, [DEVICES, NOBODY], BRIDGE)
        started.append(Mosquitto(tmp_path, spoil(tmp_path, settings)))
        return started[-1].start()

    yield begin
    for broker in started:
        broker.stop()


def patient(mosquitto: Mosquitto, site: Site | None = None, kind: str = "mosquitto") -> Patient:
    site = site or Site(mosquitto.url, (BRIDGE.user, BRIDGE.password))
    return Patient(site, (DEVICES.user, DEVICES.password), Topics(), kind, os.urandom)


def _trusting(ca: Path | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


def bad(findings: list[Finding]) -> list[Finding]:
    return [one for one in findings if one.verdict in (Verdict.PROBLEM, Verdict.LEAK)]


async def test_nothing_is_wrong_with_what_we_ship(start: Start) -> None:
    mosquitto = start()
    findings = await consult(patient(mosquitto), time.time())
    assert bad(findings) == []
    assert {"reading", "writing", "wills", "client ids", "clearing", "speed", "version"} <= {
        one.check for one in findings
    }
    assert await examine(patient(mosquitto)) == []


async def test_the_acl_file_for_vernemq_is_as_tight(start: Start) -> None:
    """VerneMQ reads the same language, and cannot be started here."""

    def spoil(folder: Path, settings: str) -> str:
        told = plan(Kind.VERNEMQ, "prov/v1", BRIDGE, DEVICES, os.urandom)
        text = told.files[0].text.replace("topic prov", "topic readwrite prov")
        (folder / "provisioner.acl").write_text(text)
        return settings

    assert bad(await consult(patient(start(spoil)), time.time())) == []


def conf(old: str, new: str = "") -> Callable[[Path, str], str]:
    def spoil(_: Path, settings: str) -> str:
        assert old in settings
        return settings.replace(old, new)

    return spoil


def acl(old: str, new: str) -> Callable[[Path, str], str]:
    return _in_file("provisioner.acl", old, new)


def passwords(user: str) -> Callable[[Path, str], str]:
    return _in_file("provisioner.passwords", f"{user}:", "nobody-else:")


def _in_file(name: str, old: str, new: str) -> Callable[[Path, str], str]:
    def spoil(folder: Path, settings: str) -> str:
        file = folder / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
        return settings

    return spoil


def no_acl(folder: Path, settings: str) -> str:
    return conf(f"acl_file {folder}/provisioner.acl\n")(folder, settings)


READ = "pattern read prov/v1/%u/%c/reply\n"
WRITE = "pattern write prov/v1/%u/%c/request\n"

MISTAKES = {
    "anybody may connect": (conf("anonymous false", "anonymous true"), "no login", "allow_anonymous false", True),
    "no access rules": (no_acl, "reading", "name an acl_file", True),
    "everybody reads everything": (acl(READ, f"{READ}pattern read #\n"), "reading", "take out what grants", True),
    "replies of every client id": (acl(READ, "pattern read prov/v1/%u/+/reply\n"), "reading", "%c/reply", True),
    "replies of every user": (acl(READ, f"{READ}pattern read prov/v1/+/+/reply\n"), "reading", "%u/%c/reply", True),
    "the account reads its whole tree": (
        acl(READ, f"{READ}user factory\ntopic read prov/v1/factory/#\n"),
        "reading",
        "pattern read prov/v1/%u/%c/reply",
        True,
    ),
    "claims in others' names": (acl(WRITE, "pattern write prov/v1/%u/+/request\n"), "writing", "pattern write", True),
    "replies to others": (acl(WRITE, f"{WRITE}pattern write prov/v1/%u/#\n"), "writing", "pattern write", True),
    "its own reply": (acl("pattern read", "pattern readwrite"), "retained replies", "(not readwrite)", True),
    "no claim may be sent": (acl(WRITE, ""), "requests arrive", WRITE.strip(), False),
    "no ack may be sent": (
        acl("pattern write prov/v1/%u/%c/ack\n", ""), "acks arrive", "pattern write prov/v1/%u/%c/ack", False,
    ),
    "no reply may be read": (acl(READ, ""), "replies arrive", READ.strip(), False),
    "the bridge hears nothing": (
        acl("topic readwrite prov/v1/+/+/request\n", ""), "requests arrive", "topic readwrite prov/v1/+/+/req", False,
    ),
    "the bridge may not answer": (
        acl("topic write prov/v1/+/+/reply\n", ""), "replies arrive", "topic write prov/v1/+/+/reply", False,
    ),
    "the bridge may not clear": (
        acl("topic readwrite prov/v1/+/+/request", "topic read prov/v1/+/+/request"),
        "clearing", "topic readwrite", False,
    ),
    "small packets wait": (conf("set_tcp_nodelay true\n"), "speed", "set_tcp_nodelay true", False),
    "the bridge has no login": (passwords("provisioner"), "bridge login", "mosquitto_passwd FILE provisioner", True),
    "devices have no login": (passwords("factory"), "device login", "mosquitto_passwd FILE factory", True),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_each_mistake_is_found_with_its_cure(start: Start, mistake: str) -> None:
    spoil, check, cure, stops = MISTAKES[mistake]
    mosquitto = start(spoil)
    found = {one.check: one for one in bad(await consult(patient(mosquitto), time.time()))}
    assert check in found, f"found instead: {found}"
    assert cure in found[check].cure
    assert bool(await examine(patient(mosquitto))) is stops, "what makes the bridge refuse to serve"


async def test_no_broker_at_all_is_said(start: Start) -> None:
    mosquitto = start()
    mosquitto.kill()
    (found,) = bad(await consult(patient(mosquitto), time.time()))
    assert (found.check, "bridge.url" in found.cure) == ("reach", True)


async def test_nothing_is_left_behind(start: Start) -> None:
    spoil = acl("pattern read", "pattern readwrite")
    mosquitto = start(spoil)
    await consult(patient(mosquitto), time.time())
    listener = await asyncio.create_subprocess_exec(
        *[needed("mosquitto_sub", "mosquitto-clients"), "-h", "127.0.0.1", "-p", str(mosquitto.port)],
        *["-u", BRIDGE.user, "-P", BRIDGE.password, "-t", "prov/v1/+/+/request", "-t", "prov/v1/+/+/ack"],
        *["--retained-only", "-W", "1"],
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await listener.communicate()
    assert out == b""


async def test_certificates_are_looked_at(start: Start, tmp_path: Path) -> None:
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 20 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", "cert.pem", "-keyout", "key.pem"]
    await asyncio.to_thread(subprocess.run, [*make.split(), *names], cwd=tmp_path, check=True, capture_output=True)
    mosquitto = start(lambda _, settings: f"certfile {tmp_path}/cert.pem\nkeyfile {tmp_path}/key.pem\n{settings}")
    login, url = (BRIDGE.user, BRIDGE.password), f"mqtts://127.0.0.1:{mosquitto.port}"

    stranger = Site(url, login, _trusting(None))
    found = {one.check: one for one in bad(await consult(patient(mosquitto, stranger), time.time()))}
    assert "bridge.ca" in found["reach"].cure
    known = Site(url, login, _trusting(tmp_path / "cert.pem"))
    (ending,) = bad(await consult(patient(mosquitto, known), time.time()))
    assert (ending.check, "renew" in ending.cure) == ("way", True)


async def test_a_login_in_the_clear_over_a_network_is_said(start: Start) -> None:
    mosquitto = start()
    abroad = Site("mqtt://broker.invalid:1883", (BRIDGE.user, BRIDGE.password))
    found = {one.check: one for one in bad(await consult(patient(mosquitto, abroad), time.time()))}
    assert "mqtts://" in found["way"].cure


async def test_a_clock_of_last_century_is_said(start: Start) -> None:
    found = {one.check: one for one in bad(await consult(patient(start()), 900_000_000.0))}
    assert "NTP" in found["clock"].cure


@pytest.mark.parametrize("kind", ["mosquitto", "rabbitmq", "emqx", "vernemq", "other"])
async def test_every_broker_has_its_words(start: Start, kind: str) -> None:
    mosquitto = start(no_acl)
    findings = bad(await consult(patient(mosquitto, kind=kind), time.time()))
    assert findings
    assert all(one.cure and "{root}" not in one.cure for one in findings)
