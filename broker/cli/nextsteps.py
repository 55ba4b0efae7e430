"""What to type next, exactly: how a device claims with the key just handed out.

The commands name files where secrets lie in files, and a word in capitals where the person knows what we do not.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from broker.cli.client import Door
from broker.cli.endpoints import Mqtt, Site, find_site
from broker.cli.output import Failed
from broker.datadir import DataDir

_LOGIN = "provision-login"
_FIRST_USER = "factory"
_KEY, _CSR = "KEY", "CSR"
_CERTIFICATE = "x509"
_SECOND_LINE = "sed -n 2p"


def claim_commands(door: Door, request: Mapping[str, Any], key_file: Path | None) -> str:
    """Two ways to be this request's device: ours, and any MQTT client's where we know the endpoint."""
    ways = [_ours(door, request, key_file)]
    try:
        at = door.server and f"{urlsplit(door.server).hostname}:1884"
        site = find_site(door.where, at, mqtt=Mqtt.V5, tls=False, ca=None)
    except Failed:
        pass  # no plain listener, or one that gets its port when it starts
    else:
        ways.append(_theirs(door, site, request, key_file))
    return "\n".join(["", "Next, as the device:", *(f"\n  {way}" for way in ways), ""])


def first_user(door: Door) -> str:
    """The provision user that the first start made; elsewhere we assume that it was named alike."""
    if door.server is not None:
        return _FIRST_USER
    folder = _data_dir(door)
    return ((DataDir(folder).load_secret(_LOGIN) or "").splitlines() or [_FIRST_USER])[0]


def _data_dir(door: Door) -> Path:
    from broker import app as root  # noqa: PLC0415  # --help does not wait for it

    return root.load(door.where.config, door.where.data_dir).settings.data_dir


def _ours(door: Door, request: Mapping[str, Any], key_file: Path | None) -> str:
    words = ["provisioner", "device", "claim", request["clientId"], "--user", request["provisionUserUsername"]]
    if request["credentialKind"] == _CERTIFICATE:
        words.append("--csr")
    if key_file is not None:
        words += ["--key-file", str(key_file)]
    if door.where.data_dir is not None:
        words += ["--data-dir", str(door.where.data_dir)]
    return shlex.join(words)


def _theirs(door: Door, site: Site, request: Mapping[str, Any], key_file: Path | None) -> str:
    client_id, user = request["clientId"], request["provisionUserUsername"]
    said = {"requestId": "r-1", "activationKey": request.get("activationKey", _KEY)}
    # The shell puts the key in: so it is not in the history.
    filled = {} if key_file is None else {_KEY: f"$(cat {shlex.quote(str(key_file))})"}
    before = ""
    if request["credentialKind"] == _CERTIFICATE:
        said["csr"] = _CSR
        own = shlex.quote(f"{client_id}.pem")
        filled[_CSR] = f"$(openssl req -new -key {own} -subj / -outform DER | base64 -w0)"
        before = f"openssl ecparam -genkey -name prime256v1 -noout -out {own}\n  "
    claim = json.dumps(said)
    message = shlex.quote(claim)
    if filled:
        message = '"' + claim.replace('"', '\\"') + '"'
        for word, command in filled.items():
            message = message.replace(word, command)
    password = "PASSWORD"  # noqa: S105  # the word that the person replaces
    if door.server is None and site.login is not None and site.login[0] == user:
        password = f'"$({_SECOND_LINE} {shlex.quote(str(_data_dir(door) / _LOGIN))})"'
    address, topic = site.endpoint.address, f"{site.root}/{user}/{client_id}"
    words = ("mosquitto_rr", "-h", address.host, "-p", str(address.port), "-i", client_id, "-u", user)
    topics = ("-t", f"{topic}/request", "-e", f"{topic}/reply", "-q", "1", "-W", "10")
    return f"{before}{shlex.join(words)} -P {password} {shlex.join(topics)} -m {message}"
