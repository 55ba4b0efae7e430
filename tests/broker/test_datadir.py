"""The data directory keeps its secrets to itself and survives being interrupted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.datadir import DataDir, Running, Unusable


def new_key() -> bytes:
    return os.urandom(32)


@pytest.fixture
def directory(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "data")
    made.prepare()
    return made


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_it_is_ours_alone(directory: DataDir) -> None:
    directory.load_keys(new_key)
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


def test_the_key_is_made_once_and_stays(directory: DataDir) -> None:
    keys = directory.load_keys(new_key)
    assert list(keys) == [1]
    assert len(keys[1]) == 32
    assert directory.load_keys(new_key) == keys


def test_further_epochs_are_found(directory: DataDir) -> None:
    first = directory.load_keys(new_key)[1]
    second = directory.path / "keys" / "vault-2"
    second.write_text("07" * 32 + "\n")
    second.chmod(0o600)
    assert directory.load_keys(new_key) == {1: first, 2: bytes([7]) * 32}


def test_no_key_is_made_beside_an_old_ledger(directory: DataDir) -> None:
    directory.ledger.write_bytes(b"")
    with pytest.raises(Unusable, match="holds no key but there is a ledger: put back the keys"):
        directory.load_keys(new_key)
    assert list((directory.path / "keys").iterdir()) == []


def test_a_key_that_others_may_read_is_refused(directory: DataDir) -> None:
    directory.load_keys(new_key)
    (directory.path / "keys" / "vault-1").chmod(0o640)
    with pytest.raises(Unusable, match="chmod 600"):
        directory.load_keys(new_key)


@pytest.mark.parametrize("content", [b"", b"00\n", b"zz" * 32, b"\xff" * 64])
def test_a_damaged_key_is_refused(directory: DataDir, content: bytes) -> None:
    directory.load_keys(new_key)
    (directory.path / "keys" / "vault-1").write_bytes(content)
    with pytest.raises(Unusable, match="is damaged"):
        directory.load_keys(new_key)


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
