"""The authority of a data directory: made at the first start, watched over, rotated, and never trusted blindly."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from structlog.testing import capture_logs
from typer.testing import CliRunner

from broker.authority import AuthorityChoices, AuthorityWatch, open_authority, parse_blocked
from broker.cli import app
from broker.cli.output import Failed
from broker.crl_files import CrlFiles
from broker.datadir import Unusable
from broker.parts import now
from certs.crl import Crl, create_crl
from certs.hierarchy import YEAR, Signer, create_issuer, create_root
from certs.keys import ED25519, P256, generate
from certs.keystore import Keystore
from certs.profile import Purpose
from provisioner.certification import DAY, CertificateRules, Certification
from provisioner.errors import Unavailable
from provisioner.model import Line, Millis
from tests.broker.test_app import Start, call, start  # noqa: F401  # a fixture of that program

START = 1_800_000_000_000
CHOICES = AuthorityChoices()


class Journal:
    def __init__(self) -> None:
        self.lines: list[Line] = []

    async def record(self, lines: Sequence[Line]) -> None:
        self.lines += lines


def watch_of(folder: Path) -> tuple[AuthorityWatch, Certification, Journal]:
    journal = Journal()
    certification = Certification(open_authority(CHOICES, folder, START), CertificateRules(), os.urandom)
    return AuthorityWatch(CHOICES, folder, certification, journal.record), certification, journal


def test_the_first_start_makes_one_and_the_next_takes_it(tmp_path: Path) -> None:
    made = open_authority(CHOICES, tmp_path / "ca", START)
    assert {issuer.purpose for issuer in made.issuers} == set(Purpose)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "ca").glob("*.key")} == {0o600}
    again = open_authority(CHOICES, tmp_path / "ca", START + DAY)
    assert [one.id for one in again.issuers] == [one.id for one in made.issuers]


def test_a_first_start_that_was_cut_off_is_completed(tmp_path: Path) -> None:
    keystore = Keystore(tmp_path / "ca")
    keystore.create("Test", START, os.urandom)
    assert {one.purpose for one in open_authority(CHOICES, tmp_path / "ca", START).issuers} == set(Purpose)


def test_a_start_is_refused_where_others_may_read_a_key(tmp_path: Path) -> None:
    open_authority(CHOICES, tmp_path / "ca", START)
    (tmp_path / "ca" / "devices-1.key").chmod(0o640)
    with pytest.raises(Unusable, match="chmod 600"):
        open_authority(CHOICES, tmp_path / "ca", START)


def test_a_start_is_refused_where_an_issuer_of_the_ledger_is_not_there(tmp_path: Path) -> None:
    authority = open_authority(CHOICES, tmp_path / "ca", START)
    known = [authority.issuers[0].id]
    assert open_authority(CHOICES, tmp_path / "ca", START, known).issuers[0].id == known[0]
    with pytest.raises(Unusable, match="put back"):
        open_authority(CHOICES, tmp_path / "ca", START, [*known, "ab" * 20])
    with pytest.raises(Unusable, match="put back"):
        open_authority(CHOICES, tmp_path / "lost", START, known)
    assert not (tmp_path / "lost").exists()  # nothing stands where the folder has to be put back


async def test_an_issuer_gets_its_successor_before_it_is_too_late(tmp_path: Path) -> None:
    watch, certification, journal = watch_of(tmp_path / "ca")
    first = certification.authority.current(Purpose.DEVICES, START)
    await watch.step(START + YEAR // 2)
    assert (len(certification.authority.issuers), journal.lines) == (2, [])
    late = START + YEAR * 3 // 4
    await watch.step(late)
    current = certification.authority.current(Purpose.DEVICES, late)
    assert (current.id != first.id, current.not_after) == (True, late + YEAR)
    assert certification.authority.issuer(first.id).key is not None  # it goes on signing lists
    assert [line.action for line in journal.lines] == ["new-issuer", "new-issuer"]
    await watch.step(late + DAY)
    assert len(certification.authority.issuers) == 4


async def test_without_the_roots_key_an_end_is_told_in_the_log(tmp_path: Path) -> None:
    watch, certification, _ = watch_of(tmp_path / "ca")
    (tmp_path / "ca" / "root.key").unlink()
    with capture_logs() as lines:
        await watch.step(START + YEAR * 3 // 4)
    assert {line["event"] for line in lines} == {"an issuer ends soon"}
    assert len(certification.authority.issuers) == 2


async def test_what_is_on_the_disk_is_taken_when_somebody_says_so(tmp_path: Path) -> None:
    watch, certification, journal = watch_of(tmp_path / "ca")
    made = Keystore(tmp_path / "ca").add_issuer("Test", Purpose.DEVICES, START, os.urandom, algorithm=ED25519)
    watch.reload()
    assert watch.wake.is_set()
    await watch.step(START)
    assert certification.authority.current(Purpose.DEVICES, START).id == made.id
    assert [line.cause[:30] for line in journal.lines] == [f"devices: issuer {made.id[:14]}"]


async def test_a_new_issuer_signs_once_its_list_is_in_place(tmp_path: Path) -> None:
    watch, certification, journal = watch_of(tmp_path / "ca")
    former = certification.authority.current(Purpose.DEVICES, START)
    is_away = True
    announced: list[set[str]] = []

    async def announce(_now: Millis) -> None:
        if is_away:
            raise Unavailable("Mosquitto is away")
        assert certification.coming is not None
        announced.append({issuer.id for issuer in certification.coming.issuers})

    watch.announce = announce
    made = Keystore(tmp_path / "ca").add_issuer("Test", Purpose.DEVICES, START, os.urandom)
    with capture_logs() as lines:
        watch.reload()
        for second in range(3):
            assert await watch.step(START + second * 1000) == START + (second + 1) * 1000
    assert [line["event"] for line in lines] == ["the former issuer goes on"]
    assert (certification.authority.current(Purpose.DEVICES, START), journal.lines) == (former, [])
    is_away = False
    await watch.step(START + 4000)
    assert certification.authority.current(Purpose.DEVICES, START).id == made.id
    assert ([made.id in one for one in announced], len(journal.lines)) == ([True], 1)


async def test_where_nobody_else_can_sign_a_new_issuer_waits_for_nobody(tmp_path: Path) -> None:
    watch, certification, _ = watch_of(tmp_path / "ca")

    async def announce(_now: Millis) -> None:
        raise Unavailable("Mosquitto is away")

    watch.announce = announce
    late = START + YEAR + DAY
    made = Keystore(tmp_path / "ca").add_issuer("Test", Purpose.DEVICES, late, os.urandom)
    watch.reload()
    await watch.step(late)
    assert certification.authority.current(Purpose.DEVICES, late).id == made.id


def test_what_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    watch, certification, _ = watch_of(tmp_path / "ca")
    before = certification.authority
    (tmp_path / "ca" / "devices-1.key").chmod(0o644)
    with capture_logs() as lines:
        watch.reload()
    assert (certification.authority, lines[0]["log_level"]) == (before, "error")


def test_blocked_keys_are_read_from_a_file() -> None:
    assert parse_blocked(f"# a comment\n{'AB' * 32}\n\n{'cd' * 32}\n") == {"ab" * 32, "cd" * 32}
    with pytest.raises(ValueError, match="64 hex digits"):
        parse_blocked("not a hash\n")


# -- lists on the disk -------------------------------------------------------------------------------------------------


def test_lists_are_replaced_whole_and_their_numbers_found_again(tmp_path: Path) -> None:
    issuer = open_authority(CHOICES, tmp_path / "ca", START).issuers[0]
    assert issuer.key is not None
    files = CrlFiles(tmp_path / "ca", tmp_path / "elsewhere.pem")
    assert files.numbers([issuer]) == {}
    der = create_crl(Signer(issuer.certificate, issuer.key), [], 7, START, START + DAY)
    files.publish({issuer.id: der})
    assert files.numbers([issuer]) == {issuer.id: 7}
    for bundle in (tmp_path / "ca" / "crl.pem", tmp_path / "elsewhere.pem"):
        assert Crl(bundle.read_bytes(), issuer.certificate).number == 7
        assert bundle.stat().st_mode & 0o777 == 0o644
    (tmp_path / "ca" / f"{issuer.id}.crl").write_bytes(b"half a li")
    assert files.numbers([issuer]) == {}


def test_a_list_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    issuer = open_authority(CHOICES, tmp_path / "ca", START).issuers[0]
    assert issuer.key is not None
    der = create_crl(Signer(issuer.certificate, issuer.key), [], 7, START, START + DAY)
    with capture_logs() as lines:
        CrlFiles(tmp_path / "ca", tmp_path / "missing" / "crl.pem").publish({issuer.id: der})
    assert [line["event"] for line in lines] == ["revocation list not written"]
    assert (tmp_path / "ca" / "crl.pem").exists()


# -- commands ----------------------------------------------------------------------------------------------------------


def ca(*words: str, data: Path) -> str:
    """What `provisioner ca` prints, in this process: starting it anew takes seconds."""
    done = CliRunner().invoke(app, ["ca", *words, "--data-dir", str(data)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_an_authority_is_made_shown_and_rotated(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ca("init", "--label", "Acme", "--algorithm", "Ed25519", data=data)
    with pytest.raises(Failed, match="ca rotate"):
        ca("init", data=data)
    ca("rotate", "--for", "devices", data=data)
    shown = ca("show", data=data)
    assert [shown.count(word) for word in ("CN=Acme root", "CN=Acme devices", "CN=Acme servers")] == [1, 2, 1]
    root = x509.load_pem_x509_certificate(ca("root", data=data).encode())
    assert root.subject.rfc4514_string().startswith("CN=Acme root")
    assert len(open_authority(CHOICES, data / "ca", now()).issuers) == 3


def test_an_operator_brings_an_issuer_and_keeps_the_root(tmp_path: Path) -> None:
    data = tmp_path / "data"
    root = create_root("Acme", generate(P256), now(), os.urandom)
    issuer = create_issuer(root, "Acme", Purpose.DEVICES, generate(P256), now(), os.urandom)
    chain, key = tmp_path / "chain.pem", tmp_path / "devices.key"
    chain.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in (issuer.certificate, root.certificate)))
    key.write_bytes(issuer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(Unusable, match="chmod 600"):
        ca("import", str(chain), str(key), data=data)
    assert not (data / "ca" / "root.pem").exists()
    key.chmod(0o600)
    assert "signs for devices" in ca("import", str(chain), str(key), data=data)
    authority = open_authority(CHOICES, data / "ca", now())
    assert [one.certificate for one in authority.issuers] == [issuer.certificate]
    with pytest.raises(Unusable, match=r"root\.key"):
        ca("rotate", data=data)


def test_a_server_that_runs_takes_the_next_issuer(start: Start) -> None:  # noqa: F811  # the fixture
    program = start()
    assert (program.data / "ca" / "crl.pem").exists()
    assert call("ca", "rotate", data=program.data).returncode == 0
    program.stop()
    made = Keystore(program.data / "ca").load().issuers[-1]
    (told,) = [json.loads(line) for line in program.errors if "authority reloaded" in line]
    assert told["issuers"][-1] == made.id[:16]
