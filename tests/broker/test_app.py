"""The whole program: how it starts, what it makes, what it says, how it ends."""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from broker import app as root
from broker import wiring
from broker.datadir import DataDir, Running, Unusable
from broker.firststart import TARGET_ACCOUNT, complete
from broker.mqtt.interface import EndpointLimits
from broker.mqtt.packets import V311, Connect, ReturnCode, encode
from broker.parts import assembled, now
from config.settings import Settings
from config.sources import load
from tests.broker.mqtt.device_client import guarded
from tests.broker.mqtt.serving import until
from tests.broker.sinks.receiver import SECRET, receiving
from tests.e2e.program import Program
from tests.pki import Held, Pki

pytestmark = pytest.mark.usefixtures("log_undone")

ROOT = Path(__file__).parents[2]
FREE = {
    "PROVISIONER_ENDPOINT__LISTEN": "127.0.0.1:0",
    "PROVISIONER_DEVICE_BROKER__LISTEN": "127.0.0.1:0",
    "PROVISIONER_HTTP__LISTEN": "127.0.0.1:0",
}

Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the program on the test's data directory; it is stopped, and what it said is looked at, after the test."""
    started: list[Program] = []

    def begin() -> Program:
        started.append(Program(tmp_path / "data"))
        return started[-1].start()

    yield begin
    for program in started:
        program.stop()


def call(*words: str, data: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a program of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PROVISIONER_")}
    return subprocess.run(
        [sys.executable, "-m", "broker", *words, "--data-dir", str(data)],
        env=clean | FREE | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Running]:
    """The program in this process, ended by a signal as any other."""
    ready: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(root.run(settings, lambda running, _first: ready.set_result(running)))
    either: list[asyncio.Future[Any]] = [task, ready]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    try:
        yield ready.result()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 20)


def settings_of(data: Path, **variables: str) -> Settings:
    environ = FREE | {"PROVISIONER_DATA_DIR": str(data)}
    return load(None, environ | {f"PROVISIONER_{name}": text for name, text in variables.items()}).settings


def split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def never(_running: Running, _first: bool) -> None:
    pytest.fail("it started")


def certificate(folder: Path) -> tuple[Path, Path]:
    chain, key = folder / "chain.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command.split(), *names, "-out", chain, "-keyout", key], check=True, capture_output=True)
    key.chmod(0o600)
    return chain, key


def test_a_server_says_where_it_is_and_nothing_that_is_secret(start: Start) -> None:
    program = start()
    assert set(program.ready) == {
        "event",
        "bridge",
        "endpoint",
        "endpointTls",
        "deviceBroker",
        "deviceBrokerTls",
        "http",
        "https",
    }
    running = DataDir(program.data).running()
    assert running is not None
    assert (running.http, running.endpoint) == (program.http, program.ready["endpoint"])
    refused = call("serve", data=program.data)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"provisioner: {program.data} is in use by another provisioner")
    assert refused.stderr.count("\n") == 1
    program.secrets |= {program.token, *(program.data / "provision-login").read_text().split()[1:]}
    with socket.create_connection(program.endpoint), socket.create_connection(program.device_broker):
        program.stop()  # fails unless the exit code is 0, in time, and nothing secret was said
    assert len(program.output) == 1
    assert not (program.data / "run.json").exists()
    (told,) = [json.loads(line) for line in program.errors if '"next"' in line]
    assert told["commands"][0].endswith(f"request create dev-1 --account default --data-dir {program.data}")
    assert told["commands"][1].endswith(f"device claim dev-1 --data-dir {program.data}")


async def test_what_the_first_start_makes_stays(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "data")
    assert await root.prepare(settings)
    names = ("admin-token", "provision-login", "keys/vault-1")
    files = {name: (tmp_path / "data" / name).read_bytes() for name in names}
    async with serving(settings) as running, httpx2.AsyncClient(base_url=running.http) as http:
        assert {name: (tmp_path / "data" / name).read_bytes() for name in names} == files
        assert {(tmp_path / "data" / name).stat().st_mode & 0o777 for name in names} == {0o600}
        token = files["admin-token"].decode().strip()
        answer = await http.get("/v2/accounts", headers={"Authorization": f"Bearer {token}"})
        accounts = {(account["name"], account["kind"]) for account in answer.json()["account"]}
        assert accounts == {("default", "TARGET"), ("provision", "PROVISION")}
        assert (await http.get("/readyz")).json() == {"ready": True, "store": True, "deviceBroker": True}
        metrics = await http.get("/metrics", headers={"Authorization": f"Bearer {token}"})
        assert "provisioner_connections 0.0" in metrics.text


async def test_what_an_operator_removed_is_not_made_again(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "data")
    assert await root.prepare(settings)
    (tmp_path / "data" / "admin-token").unlink()
    (tmp_path / "data" / "provision-login").unlink()
    assert not await root.prepare(settings)
    assert not (tmp_path / "data" / "admin-token").exists()


@pytest.mark.parametrize("lost", ["admin-token", "provision-login"])
async def test_a_first_start_that_was_cut_off_is_completed(tmp_path: Path, lost: str) -> None:
    settings = settings_of(tmp_path / "data")
    await root.prepare(settings)
    directory = DataDir(tmp_path / "data")
    # As a process that was killed after it made the secret and before it wrote the file leaves it.
    directory.save_secret("first-start", "x")
    directory.delete_secret(lost)
    assert await root.prepare(settings)
    async with assembled(settings.data_dir, wiring.choices(settings)) as parts:
        token = directory.load_secret("admin-token") or ""
        assert (await parts.administration.authenticate(token)).account_id is None
        user, password = (directory.load_secret("provision-login") or "").splitlines()
        assert await parts.provisioner.login(user, password.encode(), "dev-1")
        assert not await complete(parts.administration, directory, "provision", now())


async def test_the_head_of_the_journal_is_logged_where_nobody_rewrites_it(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "data")
    async with assembled(settings.data_dir, wiring.choices(settings)) as parts:
        head = await parts.store.head()
        assert head is not None
        with capture_logs() as lines:
            assert await parts.log_head(1_000) == 3_601_000
    assert lines == [{"event": "journal", "log_level": "info", "seq": head.seq, "head": head.digest.hex()}]


async def test_the_accounts_may_share_a_name(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "data", PROVISION_ACCOUNT=TARGET_ACCOUNT)
    async with assembled(settings.data_dir, wiring.choices(settings)) as parts:
        assert [account.kind for account in await parts.store.list_accounts()] == ["PROVISION"]


@pytest.mark.parametrize("name", ["endpoint.listen", "device_broker.listen", "http.listen"])
async def test_a_port_that_is_taken_is_named_with_its_setting(tmp_path: Path, name: str) -> None:
    variable = name.upper().replace(".", "__")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = settings_of(tmp_path / "data", **{variable: address})
        with pytest.raises(root.CannotListen) as caught:
            await root.run(settings, never)
    assert str(caught.value) == (
        f"{name} {address} is taken: stop the program that listens there, or set PROVISIONER_{variable} to another one."
    )
    async with serving(settings):
        pass  # nothing is left that would be in the way


async def test_an_address_of_somebody_else_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(root.CannotListen, match=r"^endpoint.listen 192.0.2.1:1884 cannot be listened on \("):
        await root.run(settings_of(tmp_path / "data", ENDPOINT__LISTEN="192.0.2.1:1884"), never)


async def test_keys_that_others_may_read_stop_the_start(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "data")
    await root.prepare(settings)
    key = tmp_path / "data" / "keys" / "vault-1"
    key.chmod(0o644)
    with pytest.raises(Unusable, match=rf"^{key} may be read by others: chmod 600 {key}\.$"):
        await root.run(settings, never)


async def test_a_ledger_without_its_keys_stops_the_start(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "data")
    await root.prepare(settings)
    (tmp_path / "data" / "keys" / "vault-1").unlink()
    with pytest.raises(Unusable, match="put back the keys that belong to it"):
        await root.run(settings, never)


async def test_files_that_settings_name_are_checked_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(wiring.Misconfigured, match=r"^device_broker\.ca none\.pem cannot be read: No such file"):
        await root.run(settings_of(tmp_path / "data", DEVICE_BROKER__CA="none.pem"), never)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("WEBHOOK_SECRET_FILE", "does not hold whsec_ and the base64 of 24 to 64 random bytes, a secret a line."),
        ("MQTT_LOGIN_FILE", "does not hold a user name and a password, a line each."),
    ],
)
async def test_a_malformed_secret_for_events_stops_the_start(tmp_path: Path, name: str, sentence: str) -> None:
    file = tmp_path / "secret"
    file.touch(0o600)
    file.write_text("hush")
    with pytest.raises(wiring.Misconfigured) as caught:
        await root.run(settings_of(tmp_path / "data", **{f"EVENTS__{name}": str(file)}), never)
    assert str(caught.value) == f"events.{name.lower()} {file} {sentence}"
    assert not (tmp_path / "data").exists()
    checked = call("config", "check", data=tmp_path / "data", **{f"PROVISIONER_EVENTS__{name}": str(file)})
    assert checked.returncode == 2
    assert sentence in checked.stderr
    assert "hush" not in checked.stderr


async def test_events_go_where_the_settings_say(tmp_path: Path) -> None:
    """To a receiver with a certificate of its own authority, and to an MQTT broker with a login."""
    chain, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    for name, text in (("webhook.secret", SECRET), ("mqtt.login", "events.provisioner\npw\n")):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(text)
    async with receiving(tls=context) as receiver, guarded() as site:
        reader = await site.connect("reader")
        await reader.subscribe("shared/events/#", qos=1)
        events = {
            "WEBHOOK_URL": receiver.url.replace("http:", "https:"),
            "WEBHOOK_SECRET_FILE": str(tmp_path / "webhook.secret"),
            "WEBHOOK_CA": str(chain),
            "MQTT_URL": f"mqtt://127.0.0.1:{site.port}",
            "MQTT_TOPIC": "shared/events",
            "MQTT_LOGIN_FILE": str(tmp_path / "mqtt.login"),
        }
        settings = settings_of(tmp_path / "data", **{f"EVENTS__{name}": text for name, text in events.items()})
        async with serving(settings) as running:
            words = ("request", "create", "dev-1", "--account", "default", "--server", running.http)
            token = ("--token-file", str(tmp_path / "data" / "admin-token"))
            created = await asyncio.to_thread(call, *words, *token, data=tmp_path / "data")
            assert created.returncode == 0, created.stderr
            post = await receiver.next()
            assert post.is_signed()
            topic = "shared/events/default/Device.ProvisioningRecipeCreated"
            assert await reader.messages(1) == [(topic, post.body)]


async def test_tls_listeners_speak_tls(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path)
    pair = {"CERTIFICATE": str(chain), "PRIVATE_KEY": str(key), "TLS_LISTEN": "127.0.0.1:0", "LISTEN": ""}
    both = {f"{section}__{name}": text for section in ("ENDPOINT", "DEVICE_BROKER") for name, text in pair.items()}
    both |= {f"HTTP__{name}": text for name, text in pair.items() if name != "LISTEN"}
    context = ssl.create_default_context(cafile=str(chain))
    async with serving(settings_of(tmp_path / "data", **both)) as running:
        assert (running.endpoint, running.device_broker) == (None, None)
        for address in (running.endpoint_tls, running.device_broker_tls):
            assert address is not None
            host, _, port = address.rpartition(":")
            _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="localhost")
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
            writer.close()
            await writer.wait_closed()
        assert running.https is not None
        async with httpx2.AsyncClient(base_url=running.https, verify=context) as http:
            assert (await http.get("/healthz")).json() == {"status": "up"}


async def test_without_files_the_authority_certifies_the_listeners(tmp_path: Path) -> None:
    sections = ("ENDPOINT", "DEVICE_BROKER", "HTTP")
    settings = settings_of(tmp_path / "data", **{f"{section}__TLS_LISTEN": "127.0.0.1:0" for section in sections})
    shown: list[bytes] = []
    for _ in range(2):
        async with serving(settings) as running:
            trust = ssl.create_default_context(cafile=str(tmp_path / "data" / "ca" / "root.pem"))
            for address in (
                running.endpoint_tls,
                running.device_broker_tls,
                (running.https or "").removeprefix("https://"),
            ):
                assert address is not None
                for name in ("127.0.0.1", "localhost"):
                    _, writer = await asyncio.open_connection(*split(address), ssl=trust, server_hostname=name)
                    shown.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
                    writer.close()
                    await writer.wait_closed()
    assert len(shown) == 12
    assert len(set(shown)) == 1  # one certificate for all, which a restart does not change


async def test_a_new_issuer_for_servers_certifies_us_anew_at_once(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "data", ENDPOINT__TLS_LISTEN="127.0.0.1:0")
    async with serving(settings) as running:
        address = split(running.endpoint_tls or "")
        trust = ssl.create_default_context(cafile=str(tmp_path / "data" / "ca" / "root.pem"))

        async def shown() -> bytes:
            _, writer = await asyncio.open_connection(*address, ssl=trust)
            certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            await writer.wait_closed()
            return certificate

        former = await shown()
        with capture_logs() as logs:
            done = await asyncio.to_thread(call, "ca", "rotate", "--for", "servers", data=tmp_path / "data")
            assert done.returncode == 0, done.stderr
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: any(one["event"] == "certificate reloaded" for one in logs))
        assert await shown() != former


async def test_a_hangup_brings_new_certificates_and_ends_no_connection(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    chain, key = tmp_path / "chain.pem", tmp_path / "chain.key"

    def put(held: Held) -> None:
        chain.write_bytes(held.chain.read_bytes())
        key.touch(mode=0o600)
        key.write_bytes(held.key.read_bytes())

    async def shown(address: str | None) -> bytes:
        assert address is not None
        _, writer = await asyncio.open_connection(*split(address), ssl=pki.client())
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
        return certificate

    def told(logs: list[Any]) -> list[Any]:
        return [one for one in logs if "listener" in one]

    former, following = pki.server(), pki.server()
    put(former)
    settings = {"CERTIFICATE": str(chain), "PRIVATE_KEY": str(key), "TLS_LISTEN": "127.0.0.1:0"}
    sections = ("ENDPOINT", "DEVICE_BROKER", "HTTP")
    variables = {f"{section}__{name}": text for section in sections for name, text in settings.items()}
    async with serving(settings_of(tmp_path / "data", **variables)) as running:
        addresses = (running.endpoint_tls, running.device_broker_tls, (running.https or "").removeprefix("https://"))
        assert [await shown(one) for one in addresses] == [former.der] * 3
        reader, writer = await asyncio.open_connection(*split(running.endpoint_tls or ""), ssl=pki.client())
        with capture_logs() as logs:
            put(following)
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: len(told(logs)) >= 3)
            key.write_bytes(former.key.read_bytes())
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: len(told(logs)) >= 6)
        assert {one["event"] for one in told(logs)[:3]} == {"certificate reloaded"}
        failed = {(one["listener"], one["event"], one["reason"]) for one in told(logs)[3:6]}
        words = "certificate not reloaded, the former one stays"
        assert failed == {(section.lower(), words, "KEY_VALUES_MISMATCH") for section in sections}
        assert [await shown(one) for one in addresses] == [following.der] * 3
        writer.write(encode(Connect("dev-1", V311, username="nobody", password=b"x"), V311))  # an old connection works
        assert (await reader.readexactly(4))[3] == ReturnCode.NOT_AUTHORIZED
        writer.close()
        await writer.wait_closed()


async def test_commands_reach_the_api_without_a_server(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "data")
    async with root.opened(settings) as application:
        token = DataDir(tmp_path / "data").load_secret("admin-token")
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(application),
            base_url="http://in-process",
            headers={"Authorization": f"Bearer {token}"},
        ) as http:
            body = {"accountId": (await http.get("/v2/accounts/default")).json()["id"], "clientId": "dev-1"}
            created = await http.post("/v2/provisionRequests", json=body | {"provisionUserUsername": "factory"})
            assert created.status_code == 201
            assert (await http.get("/readyz")).json() == {"ready": False, "store": True, "deviceBroker": False}


async def test_a_server_empties_the_log_of_its_ledger(tmp_path: Path) -> None:
    log = tmp_path / "data" / "ledger.db-wal"
    async with serving(settings_of(tmp_path / "data")):
        for _ in range(2000):
            if log.stat().st_size == 0:
                return
            await asyncio.sleep(0.01)
    pytest.fail("what was wiped is still in the log")


def test_every_limit_of_the_settings_reaches_the_endpoint(tmp_path: Path) -> None:
    changed = {
        f"ENDPOINT__{name.upper()}": str(int(value) + 1)
        for name, value in Settings().endpoint
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    settings = settings_of(tmp_path, **changed)
    limits = wiring.limits(settings)
    defaults = EndpointLimits()
    for name in set(changed) - {"ENDPOINT__DRAIN_TIME"}:
        field = name.removeprefix("ENDPOINT__").lower()
        assert getattr(defaults, field) == getattr(Settings().endpoint, field), field
        assert getattr(limits, field) == getattr(settings.endpoint, field) != getattr(defaults, field), field


def test_the_choices_of_the_settings_reach_the_decision(tmp_path: Path) -> None:
    choices = wiring.choices(
        settings_of(
            tmp_path,
            CLAIM__CONFIRM_TIME="60",
            CLAIM__INSTALL_WAIT="1.5",
            CLAIM__ALLOW_KEYLESS="true",
            CLAIM__ALLOW_PLAIN_WITHOUT_TLS="true",
            ENDPOINT__REFUSE_UNKNOWN="true",
            WRONG_KEYS__PER_SOURCE="7",
            WRONG_KEYS__PER_SOURCE_BURST="8",
        )
    )
    assert (choices.confirm_time, choices.rules.install_wait) == (60, 1.5)
    assert choices.rules.allow_keyless
    assert choices.rules.allow_plain_without_tls
    assert choices.rules.refuse_unknown
    assert (choices.wrong_keys.per_source.per_minute, choices.wrong_keys.per_source.burst) == (7, 8)
    assert wiring.choices(settings_of(tmp_path)).wrong_keys == type(choices.wrong_keys)()


def test_devices_are_told_what_the_settings_say(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path)
    pair = {"DEVICE_BROKER__CERTIFICATE": str(chain), "DEVICE_BROKER__PRIVATE_KEY": str(key)}
    settings = settings_of(tmp_path, **pair, DEVICE_BROKER__CA=str(chain), DEVICE_BROKER__URL="mqtt://b:1883")
    plain, secure = wiring.told(settings.device_broker, "127.0.0.1:1", "127.0.0.1:2", "our root")
    assert plain is not None
    assert secure is not None
    assert (plain.url, plain.ca) == ("mqtt://b:1883", None)
    assert (secure.url, secure.ca) == ("mqtts://127.0.0.1:2", chain.read_text())
    assert wiring.told(settings_of(tmp_path).device_broker, "127.0.0.1:1", None, "our root")[1] is None
    listening = settings_of(tmp_path, DEVICE_BROKER__TLS_LISTEN="127.0.0.1:0").device_broker
    ours = wiring.told(listening, None, "127.0.0.1:2", "our root")
    assert ours[1] is not None
    assert (ours[1].url, ours[1].ca) == ("mqtts://127.0.0.1:2", "our root")
    elsewhere = settings_of(tmp_path, DEVICE_BROKER__SECURE_URL="mqtts://b:8883").device_broker
    theirs = wiring.told(elsewhere, None, None, "our root")
    assert theirs[1] is not None
    assert theirs[1].ca is None


def test_our_listeners_are_called_as_the_settings_say(tmp_path: Path) -> None:
    names = wiring.server_names(settings_of(tmp_path, AUTHORITY__SERVER_NAMES="broker.example, 192.0.2.7"))
    assert names == ("broker.example", "192.0.2.7")
    told = {"DEVICE_BROKER__SECURE_URL": "mqtts://b.example:8883", "ENDPOINT__TLS_LISTEN": "192.0.2.7:0"}
    derived = wiring.server_names(settings_of(tmp_path, HTTP__TLS_LISTEN="0.0.0.0:0", **told))
    assert derived[:2] == ("b.example", "192.0.2.7")
    assert derived[-3:] == ("localhost", "127.0.0.1", "::1")
    assert "0.0.0.0" not in derived


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:80", "http://[::1]:80"),
        ("[fe80::1]:80", "http://[fe80::1]:80"),
        ("localhost:80", "http://localhost:80"),
    ],
)
def test_a_server_that_listens_everywhere_is_reached_on_loopback(address: str, url: str) -> None:
    assert root._url(address) == url


def test_init_prepares_without_starting(tmp_path: Path) -> None:
    assert json.loads(call("init", "--json", data=tmp_path / "d").stdout)["prepared"] is True
    again = call("init", data=tmp_path / "d")
    assert (again.returncode, again.stdout) == (0, "")
    assert again.stderr == f"{tmp_path / 'd'} was prepared before; nothing is changed.\n"
