"""`provisioner device claim` and `provisioner fleet run` against a server of a few lines."""

import asyncio
import io
import json
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from broker.cli import demo, devices, endpoints, fleet, swarmview
from broker.cli.client import Api
from broker.cli.output import Failed
from broker.fleet import scenario
from broker.fleet.replies import Address
from broker.fleet.swarm import Tally
from broker.mqtt.packets import Connack
from tests.broker.fleet import double
from tests.broker.fleet.tiny import Tiny

SECRETS = f"{double.KEY}\nprovisioning-password\n"

Claim = Callable[..., Result]


@pytest.fixture
def tiny() -> Iterator[Tiny]:
    """The server, on a loop of its own: the commands bring theirs."""
    ready: Future[Tiny] = Future()
    stop = threading.Event()

    async def serve() -> None:
        async with Tiny() as server:
            ready.set_result(server)
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    yield ready.result(10)
    stop.set()
    thread.join(10)


@pytest.fixture
def claim(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Claim:
    """`provisioner device claim` for the device the server knows, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, secrets: str = SECRETS) -> Result:
        line = ["claim", double.CLIENT_ID, "--endpoint", f"127.0.0.1:{tiny.port}", *map(str, words)]
        return CliRunner().invoke(devices.app, line, input=secrets)

    return run


def message(result: Result) -> str:
    assert isinstance(result.exception, Failed)
    return result.exception.message


@pytest.mark.parametrize("mqtt", ["3", "5"])
@pytest.mark.parametrize("mode", ["proof", "plain", "ctr", "hpke"])
def test_a_claim_tells_its_steps_and_shows_the_credential(claim: Claim, tiny: Tiny, mode: str, mqtt: str) -> None:
    done = claim("--mode", mode, "--mqtt", mqtt)
    assert done.exit_code == 0
    labels = ["connected", "subscribed", "claim sent", "offer opened", "stored", "logged in", "ack sent", "confirmed"]
    lines = done.stderr.splitlines()
    assert [line[11:25].strip() for line in lines[: len(labels)]] == labels
    assert f"p.acme.{double.CLIENT_ID}.g1" in done.stdout
    assert "STRICT" in done.stdout
    assert "secret-1" not in done.output
    assert "--save FILE keeps it" in done.stderr
    assert [connect.version for connect in tiny.connects] == [4 if mqtt == "3" else 5, 4]
    assert tiny.connects[0].password == b"provisioning-password"


def test_the_password_is_shown_where_it_is_asked_for(claim: Claim) -> None:
    assert "secret-1" in claim("--show-password").stdout


def test_the_password_is_saved_for_its_owner_alone(claim: Claim, tmp_path: Path) -> None:
    file = tmp_path / "credential.json"
    done = claim("--save", file)
    assert (done.exit_code, stat.S_IMODE(file.stat().st_mode)) == (0, 0o600)
    saved = json.loads(file.read_text())
    assert (saved["password"], saved["clientId"]) == ("secret-1", double.CLIENT_ID)
    assert "secret-1" not in done.output


def test_a_file_that_exists_is_not_overwritten(claim: Claim, tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "credential.json"
    file.write_text("precious")
    assert "exists already" in message(claim("--save", file))
    assert (file.read_text(), tiny.connects) == ("precious", [])


def test_nothing_is_saved_without_a_credential(claim: Claim, tiny: Tiny, tmp_path: Path) -> None:
    tiny.answer = lambda _topic, said: [double.reply(said, "denied", proved=False)]
    assert claim("--save", tmp_path / "credential.json").exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_json_for_programs(claim: Claim) -> None:
    done = claim("--json", "--show-password")
    assert json.loads(done.stdout)["password"] == "secret-1"
    assert "password" not in json.loads(claim("--json").stdout)
    assert "connected" not in done.stderr


def test_secrets_from_files(claim: Claim, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(double.KEY + "\n")
    (tmp_path / "password").write_text("from-a-file\n")
    done = claim("--key-file", tmp_path / "key", "--password-file", tmp_path / "password", secrets="")
    assert done.exit_code == 0
    assert tiny.connects[0].password == b"from-a-file"


def test_the_login_of_the_data_directory_is_used(claim: Claim, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    login = tmp_path / "data" / "provision-login"
    login.write_text("factory\nfrom-the-data-directory\n")
    login.chmod(0o600)
    assert claim(secrets=double.KEY + "\n").exit_code == 0
    assert tiny.connects[0].password == b"from-the-data-directory"
    tiny.connack = lambda _: Connack(5)
    assert claim("--user", "factory-2", "--mqtt", "3").exit_code == 1
    assert tiny.connects[-1].password == b"provisioning-password"


@pytest.mark.parametrize(
    ("reason", "parts", "words"),
    [
        ("denied", {}, "401 denied (trace t-1): check client id, user and activation key"),
        ("not-active", {"retryAfter": 3600}, "403 not-active (trace t-1): its window opens in 3600 seconds"),
        ("already-provisioned", {}, f"`provisioner request rotate {double.CLIENT_ID}`"),
        ("unsupported", {"supported": ["proof"]}, "try --mode proof"),
        ("unavailable", {"retryAfter": 900, "detail": "store\x1b[31m"}, "503 unavailable: store?[31m (trace t-1)"),
        ("bad-csr", {}, "see the server's log"),
    ],
)
def test_a_refusal_says_what_to_do(claim: Claim, tiny: Tiny, reason: str, parts: dict[str, Any], words: str) -> None:
    tiny.answer = lambda _topic, said: [double.reply(said, reason, trace="t-1", **parts)]
    done = claim()
    assert done.exit_code == 1
    assert words in message(done)
    assert "\n" not in message(done)


def test_a_wrong_provisioning_password(claim: Claim, tiny: Tiny) -> None:
    tiny.connack = lambda _: Connack(0x87)
    assert "the login is not accepted (CONNACK 0x87): check user, password" in message(claim())


def test_no_answer(claim: Claim, tiny: Tiny) -> None:
    tiny.answer = lambda *_: []
    assert "is not confirmed after 0 seconds" in message(claim("--timeout", "0.1"))


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(devices.app, ["claim", "dev-1", "--endpoint", "127.0.0.1:1"], input=SECRETS)
    assert "127.0.0.1:1 cannot be reached" in message(done)
    assert "provisioner serve" in message(done)


def test_no_secrets_at_all(claim: Claim) -> None:
    assert "Activation key of" in message(claim(secrets=""))


def test_cbor(claim: Claim, tiny: Tiny) -> None:
    tiny.answer = lambda topic, said: [
        double.reply(said, "confirmed", cbor=True, generation=1)
        if topic.endswith("/ack")
        else double.offer(said, url=tiny.url, cbor=True)
    ]
    assert claim("--cbor").exit_code == 0


def test_a_ca_that_is_none(claim: Claim, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    assert "holds no PEM certificate" in message(claim("--tls", "--ca", tmp_path / "ca.pem"))
    assert "cannot be read" in message(claim("--tls", "--ca", tmp_path / "none.pem"))


@pytest.mark.parametrize(
    ("text", "tls", "address"),
    [
        ("broker.example:1885", False, Address("broker.example", 1885)),
        ("broker.example", False, Address("broker.example", 1884)),
        ("broker.example", True, Address("broker.example", 8884, tls=True)),
        ("[::1]:1884", False, Address("::1", 1884)),
        ("[::1]", False, Address("::1", 1884)),
        ("0.0.0.0:1884", False, Address("127.0.0.1", 1884)),
    ],
)
def test_endpoints(text: str, address: Address, *, tls: bool) -> None:
    assert endpoints.parse_endpoint(text, tls=tls) == address


@pytest.mark.parametrize("text", ["broker:0", "broker:65536", "broker:mqtt", "broker:"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(Failed, match="write it as HOST:PORT"):
        endpoints.parse_endpoint(text, tls=False)


# Fleets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Five times the device that the server knows."""
    file = tmp_path / "keys.csv"
    file.write_text("clientId,activationKey\n" + f"{double.CLIENT_ID},{double.KEY}\n" * 5)
    return file


def run_fleet(tiny: Tiny, *words: object) -> Result:
    line = ["run", "--endpoint", f"127.0.0.1:{tiny.port}", "--user", "factory", *map(str, words)]
    return CliRunner().invoke(devices.fleet_app, line, input="provisioning-password\n")


def test_a_fleet_from_a_list(tiny: Tiny, keys: Path) -> None:
    done = run_fleet(tiny, "--keys", keys, "--concurrency", "2", "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert (told["devices"], told["confirmed"], told["refused"]) == (5, 5, {})
    assert 0 < told["p50Ms"] <= told["p99Ms"]


def test_a_fleet_with_refusals(tiny: Tiny, keys: Path) -> None:
    tiny.answer = lambda _topic, said: [double.reply(said, "denied", proved=False)]
    done = run_fleet(tiny, "--keys", keys)
    assert done.exit_code == 1
    assert [line.split() for line in done.stdout.splitlines()][1:3] == [
        ["confirmed", "0"],
        ["not", "confirmed:", "denied", "5"],
    ]


def test_a_scenario_from_a_file_and_its_reports(tiny: Tiny, keys: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('title = "Mine <b>"\n[devices]\nmodes = ["ctr"]\n[thresholds]\np99 = 0.000001\n')
    files = {name: tmp_path / f"report.{name}" for name in ("html", "junit", "json")}
    done = run_fleet(
        tiny, mine, "--keys", keys, "--html", files["html"], "--junit", files["junit"], "--report", files["json"]
    )
    assert done.exit_code == 1
    assert "p99        failed  the p99 of the latencies is" in done.stdout
    assert {said["alg"] for topic, said in tiny.messages if topic.endswith("/request")} == {"A256CTR-HS256"}
    told = json.loads(files["json"].read_text())
    assert [(one["name"], one["result"]) for one in told["checks"]] == [("confirmed", "passed"), ("p99", "failed")]
    assert (told["devices"], told["steps"]["claim"], told["title"]) == (5, 5, "Mine <b>")
    assert told["memoryMiB"] > 1
    html = files["html"].read_text()
    assert "<h1>Mine &lt;b&gt;<span" in html
    assert html.count("<svg") == 2
    (suite,) = ET.fromstring(files["junit"].read_bytes())
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")


def test_options_change_what_a_scenario_says(tiny: Tiny, keys: Path) -> None:
    done = run_fleet(
        tiny, "herd", "--keys", keys, "--spread", "0", "--mode", "ctr", "--mqtt", "3", "--seed", "5", "--json"
    )
    told = json.loads(done.stdout)
    assert (done.exit_code, told["scenario"], told["seed"], told["devices"]) == (0, "herd", 5, 5)
    assert {connect.version for connect in tiny.connects} == {4}
    assert {said["alg"] for topic, said in tiny.messages if topic.endswith("/request")} == {"A256CTR-HS256"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "nothing: there is no such file, and what is shipped is bad-network, certificates, herd"),
        (["--temporary", "--endpoint", "x:1"], "--temporary brings a server of its own"),
        (["bad-network", "--tls"], "The scenario does not go with --tls: messages inside TLS cannot be lost"),
    ],
)
def test_what_cannot_be_run_is_a_sentence(tiny: Tiny, keys: Path, words: list[str], sentence: str) -> None:
    listed = [] if "--temporary" in words else ["--keys", keys]
    done = run_fleet(tiny, *words, *listed)
    assert isinstance(done.exception, Failed)
    assert done.exception.message.startswith(sentence)
    assert done.exception.code == 2
    assert "\n" not in done.exception.message


def test_the_shipped_scenarios_are_listed_and_printed() -> None:
    listed = CliRunner().invoke(devices.fleet_app, ["scenarios", "--json"])
    assert [one["name"] for one in json.loads(listed.stdout)] == list(scenario.SHIPPED)
    printed = CliRunner().invoke(devices.fleet_app, ["scenario", "smoke"])
    assert scenario.parse(printed.stdout) == scenario.load("smoke")
    unknown = CliRunner().invoke(devices.fleet_app, ["scenario", "smok"])
    assert isinstance(unknown.exception, Failed)


def test_a_live_picture_of_a_swarm() -> None:
    tally = Tally(confirmed=3, latencies=[0.01, 0.02, 3.0], seconds=4.0, on=2, ends=[0.5, 1.5, 3.9])
    tally.refused["denied"] = tally.steps["power-cut"] = tally.replies["slow-down"] = 1
    console = Console(record=True, width=100, file=io.StringIO())
    for part in swarmview._pictures(tally):
        console.print(part)
    shown = console.export_text()
    assert "2 on" in shown
    assert "refused 1" in shown
    assert "power cuts 1   slow-down 1" in shown
    assert shown.count("≤") == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lists no devices"),
        ("clientId,activationKey\n", "lists no devices"),
        ("dev-1\n", "line 1: write a client id"),
        ("dev-1,key\ndev-2,\n", "line 2: write a client id"),
        ("dev-1,key,more\n", "line 1: write a client id"),
    ],
)
def test_a_list_that_is_none(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "keys.csv"
    file.write_text(text)
    with pytest.raises(Failed, match=words):
        fleet.load_keys(file)


def test_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="cannot be read"):
        fleet.load_keys(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"dev-1,\xff\n")
    with pytest.raises(Failed, match="not UTF-8"):
        fleet.load_keys(tmp_path / "latin.csv")


class AnyApi:
    """Takes every request, and remembers it."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def account_id(self, _name: str) -> int:
        return 7

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/v2/provisionRequests"
        self.bodies.append(body)
        await asyncio.sleep(0)
        return body | {"activationKey": f"key of {body['clientId']}"}


async def test_requests_of_a_fleet() -> None:
    api = AnyApi()
    with swarmview.Bar("making requests", 20, quiet=True) as bar:
        made = await fleet.create_requests(as_api(api), fleet.Batch("acme", "factory", "unit", 20, "LOOSE"), bar)
    assert len({client_id for client_id, _ in made}) == 20
    assert all(key == f"key of {client_id}" for client_id, key in made)
    assert {(body["accountId"], body["deviceCredentialsTight"]) for body in api.bodies} == {(7, "LOOSE")}


def as_api(api: Any) -> Api:
    assert isinstance(api, AnyApi)
    found: Any = api
    checked: Api = found
    return checked


def test_figures_of_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    swarmview.print_tally(Tally())
    assert "p99" in capsys.readouterr().out
    assert swarmview.told(Tally())["p50Ms"] is None


def test_a_trial_is_right_when_tight_is_refused_and_loose_is_not() -> None:
    trials = [demo.Trial(coupling, "u", admitted, "") for coupling in ("STRICT", "LOOSE") for admitted in (False, True)]
    assert [trial.is_right for trial in trials] == [True, False, False, True]


def test_the_systems_authorities_vouch_by_default() -> None:
    assert endpoints._trust(None).verify_mode is ssl.CERT_REQUIRED
