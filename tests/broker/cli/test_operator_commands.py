"""Accounts, users, tokens and requests at the command line: one path to the API, whether a server runs or not."""

import asyncio
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
import typer

from broker import __main__ as program
from broker.cli.times import moment, parse_moment
from broker.datadir import DataDir, Running
from broker.http.server import HttpServer
from tests.broker.http.world import World

T = TypeVar("T")
PATIENCE = 30.0


@dataclass(frozen=True)
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Call = Callable[..., Said]


@pytest.fixture
def own_log() -> Iterator[None]:
    """The server in this process is quiet, and what a command does to the log ends with the test."""
    root, kept = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**kept)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_log: None) -> Call:
    """Run `provisioner` in an empty folder, as its entry point does."""
    for name in [name for name in os.environ if name.startswith("PROVISIONER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object, code: int = 0) -> Said:
        monkeypatch.setattr(sys, "argv", ["provisioner", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            program.main()
        printed = capsys.readouterr()
        said = Said(int(ended.value.code or 0), printed.out, printed.err)
        assert said.code == code, said
        assert "Traceback" not in said.err
        return said

    return run


class Server:
    """The operator API of a world, on a real socket in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.world = self.run(World.on(folder))
        self._http = HttpServer(self.world.app)
        self.url = f"http://127.0.0.1:{self.run(self._http.start('127.0.0.1', 0))}"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def close(self) -> None:
        self.run(self._http.stop())
        self.run(self.world.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._runner.close()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("ledger"))
    yield server
    server.close()


@pytest.fixture
def data(tmp_path: Path, server: Server) -> Iterator[Path]:
    """A data directory whose server runs: it is known to `provisioner` without another word."""
    directory = DataDir(tmp_path / "data")
    directory.prepare()
    directory.save_secret("admin-token", server.run(server.world.token()))
    directory.save_secret("provision-login", "factory\nthe-password")
    announcement = directory.announce(Running(os.getpid(), server.url, endpoint="127.0.0.1:1884"))
    yield tmp_path / "data"
    announcement.withdraw()


@pytest.mark.usefixtures("data")
class TestWithAServer:
    """The server that runs on the data directory is asked."""

    def test_accounts(self, call: Call) -> None:
        created = call(
            "account", "create", "initech", "--display-name", "Initech", "--parent", "acme", "--loose", "--quota", 3
        )
        assert "initech" in created.out
        (row,) = [one for one in call("account", "list", "--json").json if one["name"] == "initech"]
        assert (row["kind"], row["coupling"], row["quota"], row["displayName"]) == ("TARGET", "LOOSE", 3, "Initech")
        assert call("account", "create", "hall", "--kind", "provision", "--json").json["kind"] == "PROVISION"
        assert "account acme is there already." in call("account", "create", "acme", code=1).err

    def test_users(self, call: Call, tmp_path: Path) -> None:
        created = call("user", "create", "line-3", "--account", "floor")
        assert "The password is shown this once." in created.err
        assert len(call("user", "password", "line-3", "--json").json["password"]) == 24
        (tmp_path / "secret").write_text("a password of mine\n")
        given = call("user", "password", "line-3", "--password-file", "secret")
        assert "a password of mine" not in given.out + given.err
        assert {one["username"] for one in call("user", "list", "--json").json} == {"factory", "line-3"}
        assert "There is no user nobody" in call("user", "password", "nobody", code=1).err

    def test_tokens(self, call: Call, tmp_path: Path, server: Server) -> None:
        printed = call("token", "create", "line-3", "--role", "installer", "--account", "acme")
        assert "prov_" in printed.out
        written = call("token", "create", "line-4", "--file", "line-4.token")
        assert "prov_" not in written.out + written.err
        assert (tmp_path / "line-4.token").stat().st_mode & 0o777 == 0o600
        holder = ("--server", server.url, "--token-file", "line-4.token")
        assert "acme" in call("account", "list", *holder).out
        assert "it needs admin" in call("account", "create", "x", *holder, code=1).err
        call("token", "delete", "line-4")
        assert "A valid bearer token is needed." in call("account", "list", *holder, code=1).err
        listed = call("token", "list")
        assert "line-3" in listed.out
        assert "prov_" not in listed.out
        assert "There is no token line-4" in call("token", "delete", "line-4", code=1).err

    def test_a_request_is_created_with_its_next_steps(self, call: Call) -> None:
        said = call("request", "create", "dev-1", "--account", "acme", "--expires", "24h")
        key = said.out.split("activation key")[1].split()[0]
        assert len(key) == 32
        assert "The activation key is shown this once." in said.err
        assert "\n  provisioner device claim dev-1 --user factory\n" in said.err
        assert (
            "\n  mosquitto_rr -h 127.0.0.1 -p 1884 -i dev-1 -u factory "
            '-P "$(sed -n 2p data/provision-login)" '
            "-t prov/v1/factory/dev-1/request -e prov/v1/factory/dev-1/reply -q 1 -W 10 "
            f"""-m '{{"requestId": "r-1", "activationKey": "{key}"}}'\n"""
        ) in said.err

    def test_a_key_may_go_to_a_file_and_nowhere_else(self, call: Call, tmp_path: Path) -> None:
        said = call("request", "create", "dev-1", "--account", "acme", "--key-file", "dev-1.key")
        key = (tmp_path / "dev-1.key").read_text().strip()
        assert (len(key), (tmp_path / "dev-1.key").stat().st_mode & 0o777) == (32, 0o600)
        assert key not in said.out + said.err
        assert "provisioner device claim dev-1 --user factory --key-file dev-1.key" in said.err
        assert '\\"activationKey\\": \\"$(cat dev-1.key)\\"' in said.err
        again = call("request", "create", "dev-2", "--account", "acme", "--key-file", "dev-1.key", code=1)
        assert "dev-1.key exists already" in again.err
        assert (tmp_path / "dev-1.key").read_text().strip() == key

    def test_a_refused_create_leaves_no_file(self, call: Call, tmp_path: Path) -> None:
        call("request", "create", "dev-1", "--account", "nobody", "--key-file", "dev-1.key", code=1)
        assert not (tmp_path / "dev-1.key").exists()

    def test_every_option_of_create_arrives(self, call: Call, tmp_path: Path) -> None:
        (tmp_path / "c.json").write_text('{"a": [1]}')
        (tmp_path / "pw").write_text("over-the-line\n")
        (tmp_path / "key").write_text("kQ7-mR2_xW9zLp4TnB8vYc3H\n")
        options = (
            "--account acme --user line-3 --user-password-file pw --loose --attempts 7 --overwrite --secure-url",
            "--activates 2027-01-31T08:00+00:00 --expires 2027-02-01T08:00+00:00 --confirm ack --configuration c.json",
            "--serial-number S-1 --mac-address 001122334455 --vendor V --brand B --model M --device-name N --forget",
            "--given-key key --json",
        )
        words = [word for line in options for word in line.split()]
        created = call("request", "create", "dev-1", *words).json
        assert created["provisionUserUsername"] == "line-3"
        assert created["activationKey"] == "kQ7-mR2_xW9zLp4TnB8vYc3H"
        assert (created["activatesOn"], created["expiresOn"]) == (1_801_382_400_000, 1_801_468_800_000)
        assert created["provisionJob"]["retryMaxAttempts"] == 7
        wanted = {
            "provisionedCredentialsTight": "LOOSE",
            "provisionSecureURL": True,
            "confirm": "ack",
            "configuration": {"a": [1]},
            "serialNumber": "S-1",
            "macAddress": "001122334455",
            "vendor": "V",
            "brand": "B",
            "model": "M",
            "deviceName": "N",
            "forget": True,
        }
        assert {name: created[name] for name in wanted} == wanted

    def test_requests_are_listed_and_shown(self, call: Call) -> None:
        assert "No such requests." in call("request", "list").err
        for number in range(3):
            call("request", "create", f"dev-{number}", "--account", "acme")
        call("request", "create", "other", "--account", "globex", "--strict")
        page = call("request", "list", "--account", "acme", "--limit", 2)
        assert [line.split()[1] for line in page.out.splitlines() if "dev-" in line] == ["dev-2", "dev-1"]
        assert "There are more: --offset 2" in page.err
        listed = call(
            "request", "list", "--client-id", "dev-1", "--client-id", "other", "--status", "created", "--json"
        )
        assert [one["clientId"] for one in listed.json] == ["other", "dev-1"]
        assert call("request", "list", "--since", "1h", "--until", "30m", "--json").json != []
        shown = call("request", "show", "dev-1")
        assert "acme" in shown.out
        found = call("request", "show", "dev-1", "--json").json
        assert call("request", "show", found["id"], "--json").json == found
        assert "There is no request for dev-9" in call("request", "show", "dev-9", code=1).err
        assert "There is no request for dev-1,dev-2" in call("request", "show", "dev-1,dev-2", code=1).err
        assert "no such provision request" in call("request", "show", "42", code=1).err

    def test_the_verbs(self, call: Call, server: Server) -> None:
        created = call("request", "create", "dev-1", "--account", "acme", "--json").json
        assert call("request", "disable", "dev-1", "--json").json["status"] == "DISABLED"
        assert "ENABLED" in call("request", "enable", "dev-1").out
        assert "only a confirmed credential" in call("request", "rotate", "dev-1", code=1).err.lower()
        server.run(server.world.claim(created))
        server.run(server.world.confirm(created))
        rotating = call("request", "rotate", "dev-1", "--json").json
        assert (rotating["phase"], rotating["liveSession"]["closes"]) == ("CONFIRMED", True)
        assert "is live; revoke or stop it first." in call("request", "delete", "dev-1", code=1).err
        revoked = call("request", "revoke", "dev-1")
        assert "RETIRING" in revoked.out
        assert "shelf closes the session that is open" in revoked.err
        server.run(server.world.jobs.step(server.world.now))
        reopened = call("request", "reopen", "dev-1", "--new-key", "--never-expires")
        assert "provisioner device claim dev-1" in reopened.err
        revealed = call("request", "key", "dev-1", "--json").json["activationKey"]
        assert revealed in reopened.out
        call("request", "key", "dev-1", "--key-file", "dev-1.key")
        assert call("request", "stop", "dev-1", "--json").json["phase"] == "STOPPED"
        kept = call("request", "reopen", "dev-1", "--expires", "2030-01-01")
        assert "device claim" not in kept.err
        call("request", "stop", "dev-1")
        assert "Request dev-1 is deleted." in call("request", "delete", "dev-1").err

    def test_files_that_are_wrong_are_named(self, call: Call, tmp_path: Path) -> None:
        create = ("request", "create", "dev-1", "--account", "acme", "--configuration")
        (tmp_path / "list.json").write_text("[]")
        (tmp_path / "text.json").write_text("hello")
        assert "list.json holds no JSON object" in call(*create, "list.json", code=1).err
        assert "text.json is not JSON" in call(*create, "text.json", code=1).err
        assert "none.json: No such file" in call(*create, "none.json", code=1).err

    @pytest.mark.parametrize(
        "words",
        [
            ["request", "create", "dev-1"],
            ["request", "create", "dev-1", "--account", "acme", "--expires", "soon"],
            ["request", "create", "dev-1", "--account", "acme", "--confirm", "never"],
            ["request", "reopen", "dev-1", "--expires", "1h", "--never-expires"],
            ["request", "list", "--limit", "0"],
            ["request", "dance", "dev-1"],
            ["account", "list", "--server", "ftp://x", "--token-file", "/dev/null"],
            ["account", "list", "--server", "http://user:password@x", "--token-file", "/dev/null"],
        ],
    )
    def test_a_call_that_makes_no_sense_is_exit_code_2(self, call: Call, words: list[str]) -> None:
        assert call(*words, code=2).out == ""


def test_the_same_commands_work_without_a_server(call: Call, tmp_path: Path) -> None:
    assert "data is not prepared yet" in call("account", "list", code=1).err
    (tmp_path / "token").write_text("prov_x\n")
    assert "data is not prepared yet" in call("account", "list", "--token-file", "token", code=1).err
    assert not (tmp_path / "data").exists()
    call("init")
    assert {one["name"] for one in call("account", "list", "--json").json} == {"default", "provision"}
    created = call("request", "create", "dev-1", "--account", "default", "--json").json
    assert created["provisionUserUsername"] == "factory"
    assert call("request", "show", "dev-1", "--json").json["id"] == created["id"]
    assert "There is no such account." in call("request", "create", "dev-2", "--account", "nobody", code=1).err
    assert len(call("request", "list", "--json").json) == 1
    assert "A valid bearer token is needed." in call("account", "list", "--token-file", "token", code=1).err


def test_another_server_needs_a_token_of_its_own(call: Call, data: Path, server: Server) -> None:
    assert "Name the file that holds the token" in call("account", "list", "--server", server.url, code=1).err
    assert (data / "admin-token").exists()


def test_the_token_file_may_be_named_by_the_environment(
    call: Call, data: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVISIONER_TOKEN_FILE", str(data / "admin-token"))
    assert "acme" in call("account", "list", "--server", server.url).out
    assert "acme" in call("account", "list", "--data-dir", data).out


def test_a_server_that_is_none_is_told_so(call: Call, tmp_path: Path, server: Server) -> None:
    (tmp_path / "token").write_text("prov_x\n")
    ask = ("account", "list", "--token-file", "token", "--server")
    assert "does not answer" in call(*ask, "http://127.0.0.1:1", code=1).err
    assert "A valid bearer token is needed." in call(*ask, f"{server.url}/elsewhere", code=1).err


def test_times_are_spans_or_dates() -> None:
    now = datetime.now().astimezone().timestamp() * 1000
    assert abs(parse_moment("90m") - now - 90 * 60_000) < 5_000
    assert abs(parse_moment("2w") - now - 14 * 86_400_000) < 5_000
    assert parse_moment("2027-01-31T08:00+00:00") == 1_801_382_400_000
    assert parse_moment("2027-01-31T08:00:00Z") == 1_801_382_400_000
    local = parse_moment("2027-01-31")
    assert moment(local) == datetime.fromisoformat("2027-01-31").astimezone().isoformat(" ", "seconds")
    assert moment(None) is None
    for text in ("", "soon", "24", "1y", "-1h", "2027-13-01", "99999999h", "0001-01-01"):
        with pytest.raises(typer.BadParameter, match="is no time"):
            parse_moment(text)


def test_the_journal_is_listed_exported_and_verified(call: Call, tmp_path: Path) -> None:
    call("init")
    call("request", "create", "dev-1", "--account", "default", "--key-file", "dev-1.key")
    assert "create" in call("audit", "list").out
    assert "create" in call("request", "log", "dev-1").out
    told = call("audit", "verify", "--json").json
    call("audit", "export", "journal.jsonl")
    assert call("audit", "verify", "--file", "journal.jsonl", "--head", told["head"], "--json").json == told
    lines = Path("journal.jsonl").read_text().splitlines()
    Path("cut.jsonl").write_text("\n".join(lines[:-1]))
    assert "cut off" in call("audit", "verify", "--file", "cut.jsonl", "--head", told["head"], code=1).err
    Path("forged.jsonl").write_text("\n".join(lines).replace("dev-1", "dev-2"))
    assert "tampered" in call("audit", "verify", "--file", "forged.jsonl", code=1).err
    Path("noise.jsonl").write_text("{}")
    assert "no journal" in call("audit", "verify", "--file", "noise.jsonl", code=1).err


def test_drift_says_that_all_is_well(call: Call) -> None:
    call("init")
    assert "hold what the ledger says" in call("drift").err
    assert call("drift", "--apply", "--json").json == {"difference": [], "unreachable": []}


def test_a_policy_and_labels_from_the_command_line(call: Call, tmp_path: Path) -> None:
    call("init")
    rules = tmp_path / "rules.json"
    rules.write_text('{"window": 3600, "configuration": {"id": "${clientId}"}}', encoding="utf-8")
    policy = call("policy", "create", "line-3", "--rules", str(rules), "--json").json
    tag = call("tag", "create", "north", "--json").json
    place = call("location", "create", "hall 3", "--json").json
    labels = ("--policy", "line-3", "--tag", tag["uid"], "--location", place["uid"], "--user", "factory")
    made = call("request", "create", "dev-1", "--account", "default", *labels, "--json").json
    assert (made["policyUid"], made["configuration"]) == (policy["uid"], {"id": "dev-1"})
    assert (made["tagUids"], made["locationUid"]) == ([tag["uid"]], place["uid"])
    rules.write_text('{"window": 60}', encoding="utf-8")
    assert call("policy", "change", "line-3", "--rules", str(rules), "--json").json["optlock"] == 2
    assert call("policy", "show", "line-3", "--version", "1", "--json").json == policy
    assert '"window": 60' in call("policy", "show", "line-3").out
    unit = ("--serial-number", "S-7", "--brand", "b", "--user", "factory")
    assert call("request", "create", "--account", "default", *unit, "--json").json["clientId"] == "S-7"
    assert call("policy", "delete", "line-3").code == 0
    assert "provisioner policy list" in call("policy", "show", "line-3", code=1).err
    for word, label in (("tag", tag), ("location", place)):
        assert [one["uid"] for one in call(word, "list", "--json").json] == [label["uid"]]
        assert call(word, "delete", label["uid"]).code == 0
    rules.write_text("[]", encoding="utf-8")
    assert "no JSON object" in call("policy", "create", "x", "--rules", str(rules), code=1).err


def test_the_device_broker_is_listed_and_planned(call: Call) -> None:
    call("init")
    [listed] = call("broker", "list", "--json").json
    assert (listed["name"], listed["problems"]) == ("embedded", [])
    [plan] = call("broker", "plan", "--json").json["plan"]
    assert (plan["install"], plan["revoke"], plan["cost"]["sessions"]) == ([], [], 0)
    assert call("broker", "apply", "--json").json["applied"] == {"difference": [], "unreachable": []}
    assert "hold what the ledger says" in call("broker", "drift").err


@pytest.mark.usefixtures("data")
def test_loose_credentials_are_locked_and_let_go(server: Server, call: Call) -> None:
    assert "No loose credential" in call("learn").err
    assert "one client id alone" in call("lock", code=1).err
    assert "Nothing was locked" in call("lock", "--list").err
    assert "no such batch" in call("lock", "--undo", "5", code=1).err
    made = call("request", "create", "dev-1", "--account", "acme", "--user", "factory", "--loose", "--json").json
    world = server.world
    offer = server.run(world.claim(made))
    server.run(world.confirm(made))
    login = (offer.username, offer.password.reveal().encode())
    assert server.run(world.provisioner.device_login("shelf", *login, "sensor-7", world.now))
    assert "sensor-7" in call("learn").out
    batch = call("lock", offer.username, "--json").json
    assert batch["bound"][0]["clientId"] == "sensor-7"
    assert server.run(world.provisioner.device_login("shelf", *login, "sensor-8", world.now)) is None
    assert str(batch["id"]) in call("lock", "--list").out
    assert "loose again" in call("lock", "--undo", batch["id"]).err
    assert server.run(world.provisioner.device_login("shelf", *login, "sensor-8", world.now))
