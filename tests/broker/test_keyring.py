"""Keys from three places, and one sentence where they cannot be had."""

import os
import shlex
import sys
from pathlib import Path

import pytest

from broker.datadir import DataDir, Unusable
from broker.keyring import KeySource, open_keyring
from provisioner.handover import Vault, first_pepper

KEY, OTHER, PEPPER = "01" * 32, "02" * 32, "03" * 32


@pytest.fixture
def directory(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "data")
    made.prepare()
    return made


def new_key() -> bytes:
    return os.urandom(32)


def never() -> bytes:
    raise AssertionError("no key is made here")


async def test_files_are_made_once_and_stay(directory: DataDir) -> None:
    made = await open_keyring(KeySource(), directory, new_key)
    again = await open_keyring(KeySource(), directory, never)
    assert (list(made.keys), made.keys, made.pepper) == ([1], again.keys, again.pepper)
    assert len({made.keys[1], made.pepper}) == 2
    assert {(file.name, file.stat().st_mode & 0o777) for file in directory.keys.iterdir()} == {
        ("vault-1", 0o600),
        ("pepper", 0o600),
    }


async def test_a_directory_from_before_the_pepper_keeps_its_fingerprints(directory: DataDir) -> None:
    directory.create_secret("keys/vault-1", KEY)
    directory.ledger.write_bytes(b"")
    keyring = await open_keyring(KeySource(), directory, never)
    former = Vault({1: bytes.fromhex(KEY)}, os.urandom)
    assert Vault(keyring.keys, os.urandom, keyring.pepper).fingerprint("s", "c") == former.fingerprint("s", "c")
    keyring.add(2, bytes.fromhex(OTHER))
    keyring.destroy(1)
    later = await open_keyring(KeySource(), directory, never)
    assert (later.keys, later.pepper) == ({2: bytes.fromhex(OTHER)}, first_pepper({1: bytes.fromhex(KEY)}))


async def test_a_key_that_was_added_before_is_the_key(directory: DataDir) -> None:
    keyring = await open_keyring(KeySource(), directory, new_key)
    first = keyring.add(2, bytes.fromhex(KEY))
    assert keyring.add(2, bytes.fromhex(OTHER)) == first == keyring.keys[2] == bytes.fromhex(KEY)


async def test_no_key_is_made_beside_an_old_ledger(directory: DataDir) -> None:
    directory.ledger.write_bytes(b"")
    with pytest.raises(Unusable, match="holds no key but there is a ledger: put back the keys"):
        await open_keyring(KeySource(), directory, never)
    assert list(directory.keys.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"00\n", b"zz" * 32, b"\xff" * 64])
@pytest.mark.parametrize("name", ["vault-1", "pepper"])
async def test_a_damaged_key_is_refused(directory: DataDir, name: str, content: bytes) -> None:
    await open_keyring(KeySource(), directory, new_key)
    (directory.keys / name).write_bytes(content)
    with pytest.raises(Unusable, match=rf"{name} is damaged"):
        await open_keyring(KeySource(), directory, never)


async def test_credentials_are_read_by_name(directory: DataDir, tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    for name, text in {"vault-1": KEY, "vault-2": OTHER + "\n", "pepper": PEPPER, "tls.pem": "x"}.items():
        (folder / name).write_text(text)
    keyring = await open_keyring(KeySource("credentials", folder), directory, never)
    assert (keyring.keys, keyring.pepper.hex()) == ({1: bytes.fromhex(KEY), 2: bytes.fromhex(OTHER)}, PEPPER)
    assert not keyring.is_ours
    assert list(directory.keys.iterdir()) == []


async def test_credentials_that_are_not_there_are_named(directory: DataDir, tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="LoadCredential="):
        await open_keyring(KeySource("credentials"), directory, never)
    with pytest.raises(Unusable, match=r"^There is no vault-1 in .*: put it there, 64 hex digits"):
        await open_keyring(KeySource("credentials", tmp_path), directory, never)
    (tmp_path / "vault-1").write_text(KEY)
    with pytest.raises(Unusable, match=r"^There is no pepper in "):
        await open_keyring(KeySource("credentials", tmp_path), directory, never)
    (tmp_path / "pepper").write_text(PEPPER[1:])
    with pytest.raises(Unusable, match=r"^Key pepper in .* should be 64 hex digits") as told:
        await open_keyring(KeySource("credentials", tmp_path), directory, never)
    assert PEPPER[1:] not in str(told.value)


def command(script: str) -> KeySource:
    return KeySource("command", command=shlex.join([sys.executable, "-c", script]))


async def test_a_command_prints_the_keys(directory: DataDir) -> None:
    source = command(f"print('vault-1 {KEY}'); print(); print('pepper  {PEPPER} ')")
    keyring = await open_keyring(source, directory, never)
    assert ({1: bytes.fromhex(KEY)}, PEPPER) == (keyring.keys, keyring.pepper.hex())


async def test_a_command_gets_no_input(directory: DataDir) -> None:
    source = command(f"import sys; assert not sys.stdin.read(); print('vault-1 {KEY}\\npepper {PEPPER}')")
    assert (await open_keyring(source, directory, never)).keys


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("raise SystemExit(3)", "ended with exit code 3"),
        (f"print('{KEY}')", "prints a line that is no key"),
        (f"print('vault-0 {KEY}')", "prints a line that is no key"),
        (f"print('pepper {KEY}')", "There is no vault-1 in the output of vault.command"),
        ("print('vault-1 abc')", "Key vault-1 in the output of vault.command should be 64 hex digits"),
        ("import sys; sys.stdout.write('x' * 100_000)", "prints more than 65536 bytes"),
        ("while True: print('x' * 1000)", "prints more than 65536 bytes"),
    ],
)
async def test_a_command_that_prints_no_keys_is_one_sentence(directory: DataDir, script: str, sentence: str) -> None:
    with pytest.raises(Unusable, match=sentence) as told:
        await open_keyring(command(script), directory, never)
    assert KEY not in str(told.value)


async def test_a_command_that_never_ends_is_ended(directory: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.keyring._SECONDS", 0.2)
    with pytest.raises(Unusable, match="takes longer than"):
        await open_keyring(command("import sys; sys.stdin.close(); import time; time.sleep(600)"), directory, never)


async def test_a_command_that_is_not_there_is_named(directory: DataDir) -> None:
    with pytest.raises(Unusable, match=r"cannot be run: no-such-program: No such file or directory\.$"):
        await open_keyring(KeySource("command", command="no-such-program --now"), directory, never)
