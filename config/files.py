"""Whether the files and folders that the settings name are usable, without changing anything.

1. A private key that others may read is refused, and so is a data directory of somebody else.
2. A certificate and its key are loaded as the server will load them, so a pair that does not fit is found here.
3. Every problem is one sentence, as in `sources.py`.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

from config.settings import DeviceBroker, Settings

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def problems(settings: Settings) -> tuple[str, ...]:
    """What would keep these settings from working on this machine; empty when nothing would."""
    broker = settings.device_broker
    return (
        *_data_dir(settings.data_dir),
        *_pair("endpoint", settings.endpoint.certificate, settings.endpoint.private_key),
        *_pair("device_broker", broker.certificate, broker.private_key),
        *_pair("http", settings.http.certificate, settings.http.private_key),
        *(problem for one in (("device_broker", broker), *_named(settings)) for problem in _device_broker(*one)),
        *_pair("webhook", settings.webhook.certificate, settings.webhook.private_key),
        *_authority("webhook.client_ca", settings.webhook.client_ca),
        *_secret("bridge.login_file", settings.bridge.login_file),
        *_authority("bridge.ca", settings.bridge.ca),
        *_secret("authority.passphrase_file", settings.authority.passphrase_file),
        *_secret("events.webhook_secret_file", settings.events.webhook_secret_file),
        *_secret("events.mqtt_login_file", settings.events.mqtt_login_file),
        *_authority("events.webhook_ca", settings.events.webhook_ca),
        *_authority("events.mqtt_ca", settings.events.mqtt_ca),
        *_secret("mail.login_file", settings.mail.login_file),
        *_authority("mail.ca", settings.mail.ca),
    )


def _named(settings: Settings) -> list[tuple[str, DeviceBroker]]:
    return [(f"device_brokers.{name}", one) for name, one in settings.device_brokers.items()]


def _device_broker(name: str, section: DeviceBroker) -> Iterator[str]:
    yield from _authority(f"{name}.ca", section.ca)
    yield from _authority(f"{name}.control_ca", section.control_ca)
    yield from _secret(f"{name}.login_file", section.login_file)
    yield from _secret(f"{name}.secret_file", section.secret_file)


def _data_dir(path: Path) -> Iterator[str]:
    if not path.exists():
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            yield f"data_dir {path} cannot be created in {parent}: choose another folder or make that one writable."
    elif not path.is_dir():
        yield f"data_dir {path} is not a folder: choose another path."
    elif path.stat().st_uid != os.geteuid():
        yield f"data_dir {path} belongs to another user: run as its owner, or choose another folder."
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield f"data_dir {path} cannot be written to: chmod 700 {path}."
    else:
        for name in ("keys", "ca", "admin-token", "provision-login"):
            yield from _private(name, path / name) if (path / name).exists() else ()


def _pair(section: str, certificate: Path | None, private_key: Path | None) -> Iterator[str]:
    if certificate is None or private_key is None:
        return
    found = [
        *_readable(f"{section}.certificate", certificate),
        *(_readable(f"{section}.private_key", private_key) or _private(f"{section}.private_key", private_key)),
    ]
    yield from found
    if found:
        return
    try:
        # An encrypted key would otherwise ask at the terminal; no password fits, which is the error we want.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, private_key, password="")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        yield (
            f"{section}.certificate {certificate} and {section}.private_key {private_key} cannot be used ({reason}): "
            "give a PEM chain and its own unencrypted PEM key."
        )


def _secret(name: str, path: Path | None) -> list[str]:
    return [] if path is None else _readable(name, path) or _private(name, path)


def _authority(name: str, path: Path | None) -> Iterator[str]:
    if path is None:
        return
    if found := _readable(name, path):
        yield from found
        return
    try:
        ssl.create_default_context(cafile=str(path))
    except (ssl.SSLError, ValueError):
        yield f"{name} {path} holds no certificate: give a PEM file."


def _readable(name: str, path: Path) -> list[str]:
    try:
        with path.open("rb"):
            return []
    except OSError as error:
        return [f"{name} {path} cannot be read: {error.strerror or error}."]


def _private(name: str, path: Path) -> list[str]:
    mode = path.stat().st_mode
    if not mode & _OTHERS:
        return []
    wanted = "700" if stat.S_ISDIR(mode) else "600"
    return [f"{name} {path} may be read by others (mode {stat.S_IMODE(mode):04o}): chmod {wanted} {path}."]
