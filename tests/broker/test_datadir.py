"""The data directory keeps its secrets to itself and survives being interrupted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.datadir import DataDir, Running, Unusable


@pytest.fixture
def directory(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "data")
    made.prepare()
    return made


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_it_is_ours_alone(directory: DataDir) -> None:
    directory.create_secret("keys/vault-1", "k")
    directory.save_secret("admin-token", "t")
    assert mode(directory.path) == mode(directory.path / "keys") == 0o700
    assert mode(directory.path / "keys" / "vault-1") == mode(directory.path / "admin-token") == 0o600


def test_a_directory_that_others_may_read_is_refused(directory: DataDir) -> None:
    directory.path.chmod(0o750)
    with pytest.raises(Unusable, match=r"^.* may be read by others: chmod 700 .*data\.$"):
        directory.prepare()


def test_an_empty_directory_is_made_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    DataDir(tmp_path).prepare()
    assert mode(tmp_path) == 0o700


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unusable, match="cannot be created: Not a directory"):
        DataDir(tmp_path / "file" / "data").prepare()


def test_a_damaged_secret_is_refused(directory: DataDir) -> None:
    directory.save_secret("admin-token", "t")
    (directory.path / "admin-token").write_bytes(b"\xff" * 64)
    with pytest.raises(Unusable, match="is damaged"):
        directory.load_secret("admin-token")


def test_a_secret_that_others_may_read_is_refused(directory: DataDir) -> None:
    directory.save_secret("admin-token", "t")
    (directory.path / "admin-token").chmod(0o640)
    with pytest.raises(Unusable, match="chmod 600"):
        directory.load_secret("admin-token")


def test_a_secret_that_is_there_stays(directory: DataDir) -> None:
    for text in ("one", "two"):
        directory.create_secret("keys/vault-1", text)
    assert directory.load_secret("keys/vault-1") == "one"
    assert [file.name for file in directory.keys.iterdir()] == ["vault-1"]


def test_a_deleted_secret_is_off_the_disk(directory: DataDir, tmp_path: Path) -> None:
    directory.save_secret("keys/vault-1", "secret")
    other = tmp_path / "another-name"
    other.hardlink_to(directory.keys / "vault-1")  # who still holds the file sees what is left of it
    directory.delete_secret("keys/vault-1")
    directory.delete_secret("keys/vault-1")
    assert (list(directory.keys.iterdir()), other.read_bytes()) == ([], bytes(len("secret\n")))


def test_a_secret_is_whole_and_can_be_replaced(directory: DataDir) -> None:
    assert directory.load_secret("provision-login") is None
    for text in ("factory\none", "factory\ntwo"):
        directory.save_secret("provision-login", text)
        assert directory.load_secret("provision-login") == text
    assert [file.name for file in directory.path.iterdir() if file.name.startswith(".")] == []
    directory.delete_secret("provision-login")
    assert directory.load_secret("provision-login") is None


def test_a_running_server_is_found_until_it_withdraws(directory: DataDir) -> None:
    assert directory.running() is None
    running = Running(1234, "http://127.0.0.1:8080", "127.0.0.1:1884", None, "127.0.0.1:1883")
    announcement = directory.announce(running)
    assert directory.running() == running
    assert mode(directory.path / "run.json") == 0o600
    announcement.withdraw()
    assert directory.running() is None
    assert not (directory.path / "run.json").exists()


def test_a_killed_server_is_not_found(directory: DataDir) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from broker.datadir import DataDir, Running\n"
        "kept = DataDir(Path(sys.argv[1])).announce(Running(os.getpid(), 'http://x'))\n"
        "assert DataDir(Path(sys.argv[1])).running() is not None\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script, directory.path], cwd=root, check=False)
    assert done.returncode == -9
    assert (directory.path / "run.json").exists()
    assert directory.running() is None
    directory.announce(Running(os.getpid(), "http://y")).withdraw()
