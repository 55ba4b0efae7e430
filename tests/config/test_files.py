"""Whether the named files are usable is found before anything starts."""

import subprocess
from pathlib import Path

import pytest

from config.files import problems
from config.sources import load


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    folder = tmp_path_factory.mktemp("pair")
    return made(folder, "one")


def made(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*command.split(), "-out", certificate, "-keyout", key], check=True, capture_output=True)
    key.chmod(0o600)
    return certificate, key


def told(tmp_path: Path, **variables: object) -> tuple[str, ...]:
    environ = {"PROVISIONER_DATA_DIR": str(tmp_path / "data")} | {
        f"PROVISIONER_{name}": str(value) for name, value in variables.items()
    }
    return problems(load(None, environ).settings)


def test_a_data_directory_that_is_not_there_yet_is_no_problem(tmp_path: Path) -> None:
    assert told(tmp_path) == ()
    assert told(tmp_path, DATA_DIR=tmp_path / "a" / "b" / "c") == ()
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert told(tmp_path) == (f"data_dir {tmp_path / 'data'} is not a folder: choose another path.",)
    (problem,) = told(tmp_path, DATA_DIR=tmp_path / "data" / "below")
    assert problem.startswith(f"data_dir {tmp_path / 'data' / 'below'} cannot be created in {tmp_path / 'data'}: ")


@pytest.mark.parametrize("name", ["WEBHOOK_SECRET_FILE", "MQTT_LOGIN_FILE"])
def test_secrets_of_receivers_of_events_are_there_and_private(tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    variable = {f"EVENTS__{name}": file}
    assert told(tmp_path, **variable) == (f"events.{name.lower()} {file} cannot be read: No such file or directory.",)
    file.write_text("secret")
    file.chmod(0o640)
    (problem,) = told(tmp_path, **variable)
    assert problem.startswith(f"events.{name.lower()} {file} may be read by others (mode 0640): chmod 600")
    file.chmod(0o600)
    assert told(tmp_path, **variable) == ()


@pytest.mark.parametrize(("name", "mode"), [("keys", "700"), ("admin-token", "600"), ("provision-login", "600")])
def test_secrets_that_others_may_read_are_found(tmp_path: Path, name: str, mode: str) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / name).mkdir() if name == "keys" else (data / name).write_text("x")
    (data / name).chmod(0o755)
    assert told(tmp_path) == (f"{name} {data / name} may be read by others (mode 0755): chmod {mode} {data / name}.",)


def test_a_good_pair_is_good(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    assert (
        told(tmp_path, ENDPOINT__CERTIFICATE=certificate, ENDPOINT__PRIVATE_KEY=key, DEVICE_BROKER__CA=certificate)
        == ()
    )


def test_a_key_of_another_certificate_is_found(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    _, other = made(tmp_path, "other")
    (problem,) = told(tmp_path, ENDPOINT__CERTIFICATE=pair[0], ENDPOINT__PRIVATE_KEY=other)
    assert problem.startswith(f"endpoint.certificate {pair[0]} and endpoint.private_key {other} cannot be used (")
    assert problem.endswith("give a PEM chain and its own unencrypted PEM key.")


def test_an_encrypted_key_is_refused_without_asking_at_the_terminal(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    locked = tmp_path / "locked.key"
    command = ["openssl", "ec", "-aes128", "-passout", "pass:hidden", "-in", str(pair[1]), "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    locked.chmod(0o600)
    (problem,) = told(tmp_path, ENDPOINT__CERTIFICATE=pair[0], ENDPOINT__PRIVATE_KEY=locked)
    assert "unencrypted PEM key" in problem


def test_a_key_that_others_may_read_is_refused(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    open_key = tmp_path / "open.key"
    open_key.write_bytes(pair[1].read_bytes())
    open_key.chmod(0o644)
    (problem,) = told(tmp_path, DEVICE_BROKER__CERTIFICATE=pair[0], DEVICE_BROKER__PRIVATE_KEY=open_key)
    assert problem == f"device_broker.private_key {open_key} may be read by others (mode 0644): chmod 600 {open_key}."


def test_missing_files_and_files_of_another_kind_are_found(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.pem"
    assert told(tmp_path, ENDPOINT__CERTIFICATE=nothing, ENDPOINT__PRIVATE_KEY=nothing) == (
        f"endpoint.certificate {nothing} cannot be read: No such file or directory.",
        f"endpoint.private_key {nothing} cannot be read: No such file or directory.",
    )
    nothing.write_text("hello")
    assert told(tmp_path, DEVICE_BROKER__CA=nothing) == (
        f"device_broker.ca {nothing} holds no certificate: give a PEM file.",
    )
