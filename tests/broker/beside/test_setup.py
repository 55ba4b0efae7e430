"""What `provisioner broker setup` writes: complete, readable by the broker's own language, and without a password."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from base64 import b64decode
from pathlib import Path

import pytest

from broker.beside.setup import Kind, Login, plan
from tests.mosquitto import BRIDGE
from tests.programs import needed

DEVICES = Login("factory", "the-line-password-7")


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("root", ["prov/v1", "plant-7/line"])
def test_every_file_is_filled_in_and_shows_no_password(kind: Kind, root: str) -> None:
    told = plan(kind, root, BRIDGE, DEVICES, os.urandom)
    assert told.files
    assert told.commands
    for file in told.files:
        assert not re.search(r"@[A-Z]", file.text)
        assert BRIDGE.password not in file.text
        assert DEVICES.password not in file.text
    text = "".join(file.text for file in told.files)
    assert root in text or root.replace("/", "\\\\.") in text
    assert BRIDGE.user in text


def test_the_rules_for_emqx_are_terms_of_its_language(tmp_path: Path) -> None:
    """acl.conf is read by Erlang's file:consult; EMQX itself cannot be started here."""
    [rules, users] = plan(Kind.EMQX, "prov/v1", BRIDGE, DEVICES, os.urandom).files
    (tmp_path / "acl.conf").write_text(rules.text)
    check = '{ok, Terms} = file:consult("acl.conf"), io:format("~b", [length(Terms)]), halt().'
    done = subprocess.run(
        [needed("erl", "erlang-base"), "-noshell", "-eval", check],
        cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert done.stdout == "6"
    told = {one["user_id"]: one for one in json.loads(users.text)}
    for login in (BRIDGE, DEVICES):
        entry = told[login.user]
        assert entry["password_hash"] == hashlib.sha256((entry["salt"] + login.password).encode()).hexdigest()
        assert entry["is_superuser"] is False


def test_the_hashes_for_rabbitmq_are_of_the_passwords() -> None:
    [file] = plan(Kind.RABBITMQ, "prov/v1", BRIDGE, DEVICES, os.urandom).files
    told = {one["name"]: one for one in json.loads(file.text)["users"]}
    for login in (BRIDGE, DEVICES):
        raw = b64decode(told[login.user]["password_hash"])
        assert raw[4:] == hashlib.sha256(raw[:4] + login.password.encode()).digest()
        assert told[login.user]["tags"] == ""
