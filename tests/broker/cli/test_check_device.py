"""`provisioner check-device`, as far as it goes without a device."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner, Result

from broker.cli import checkdevice
from broker.cli.output import Failed
from broker.conformance.sheet import Check

SECRETS = "provisioning-password\n0123456789ABCDEFGHIJKLMNOPQRSTUV\n"
NOBODY = ("--reset", "true", "--off", "true", "--on", "true", "--timeout", "0.1")


def check(*words: object, listen: str = "127.0.0.1:0") -> Result:
    line = ["dev-1", "--listen", listen, "--work-listen", "127.0.0.1:0", *map(str, words)]
    return CliRunner().invoke(checkdevice.app, line, input=SECRETS)


def test_a_device_that_never_comes_fails_and_is_reported(tmp_path: Path) -> None:
    html, junit = tmp_path / "check.html", tmp_path / "check.xml"
    done = check(*NOBODY, "--html", html, "--junit", junit)
    assert done.exit_code == 1
    assert "speaks by the contract" in done.stdout
    assert "it neither subscribes nor publishes at the provision broker" in done.stdout
    (suite,) = ET.fromstring(junit.read_bytes())
    assert (suite.get("tests"), suite.get("failures")) == (str(len(Check)), "1")
    assert '<span class="badge failed">' in html.read_text()
    assert "0123456789ABCDEFGHIJKLMNOPQRSTUV" not in done.output + html.read_text()


def test_a_report_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    done = check(*NOBODY, "--html", tmp_path / "nowhere" / "check.html")
    assert isinstance(done.exception, FileNotFoundError)
    assert "Story" not in done.output


def test_json_for_programs() -> None:
    told = json.loads(check(*NOBODY, "--json").stdout)
    assert [one["name"] for one in told["checks"]] == [one.value for one in Check]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "Nobody is there to switch the device: give the commands --reset, --off and --on"),
        (("--off", "true"), "A relay needs three commands"),
        ((*NOBODY, "--ca", "x.pem"), "TLS needs three files"),
        ((*NOBODY, "--work-listen", "here"), "--work-listen here is no address: write it as HOST:PORT."),
    ],
)
def test_what_cannot_be_done_is_a_sentence(words: tuple[str, ...], sentence: str) -> None:
    done = check(*words)
    assert isinstance(done.exception, Failed)
    assert done.exception.message.startswith(sentence)
    assert done.exception.code == 2


def test_certificates_that_are_none_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    files = [word for name in ("--certificate", "--private-key", "--ca") for word in (name, tmp_path / "x.pem")]
    done = check(*NOBODY, *files)
    assert isinstance(done.exception, Failed)
    assert "are no certificate with its key" in done.exception.message
