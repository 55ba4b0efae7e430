"""Mosquitto's password file and ACL file as text: what is ours goes in and out, every other line stays as it is.

1. Ours are lines of names that begin with `p.` and have the form of a credential's user name (`policy`), and those of
   the canary. In the ACL file they stand in one region at the end, between two marks.
2. Nothing is written that Mosquitto would choke on: 2.0 drops a malformed or second line of a name, 2.1 ends itself at
   reload. A file that somebody else broke is refused with the number of the line.
3. Passwords are PBKDF2-HMAC-SHA512, `$7$ROUNDS$SALT$KEY` with base64 and a key of 64 bytes (Mosquitto,
   `src/password_mosq.c`). 101 rounds, its own default of 2.0: the passwords are ours and hold 112 bits and more.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping

from provisioner.model import Grant
from provisioner.ports import Entropy

CANARY = "p..canary"
"""An account cannot be named so that a device would have this name: `credential_username` ends with a generation."""

_BEGIN, _END = "# provisioner: written by the MQTT Provisioner, changes are lost", "# provisioner: end"
_ROUNDS = 101
_SALT = 12
_KEY = 64
_OURS = re.compile(r"p\.[A-Za-z0-9][A-Za-z0-9._:-]*\.g[0-9]+")
_BASE64 = r"[A-Za-z0-9+/]+={0,2}"
_PASSWORD_LINE = re.compile(
    rf"(?P<name>[^:\s][^:\x00-\x1f\x7f]*):"
    rf"(\$6\${_BASE64}\${_BASE64}|\$7\$[1-9][0-9]*\${_BASE64}\${_BASE64}|\$argon2id\$[A-Za-z0-9+/=,$]+)"
)


class Broken(ValueError):
    """A file holds what Mosquitto would not take; the text is the end of a sentence."""


def is_ours(username: str) -> bool:
    """Whether a name has the form of a credential's user name."""
    return _OURS.fullmatch(username) is not None


def hashed(password: str, entropy: Entropy) -> str:
    """The password as it stands behind the colon."""
    salt = entropy(_SALT)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ROUNDS, _KEY)
    return f"$7${_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def is_hash_of(text: str, password: str) -> bool:
    """Whether `text`, as it stands behind the colon, is one that `hashed` made of this password."""
    kind, _, rest = text[1:].partition("$")
    rounds, _, rest = rest.partition("$")
    salt, _, key = rest.partition("$")
    if kind != "7" or rounds != str(_ROUNDS):
        return False
    made = hashlib.pbkdf2_hmac("sha512", password.encode(), base64.b64decode(salt), _ROUNDS, _KEY)
    return hmac.compare_digest(base64.b64encode(made).decode(), key)


def parse_passwords(text: str) -> tuple[list[str], dict[str, str]]:
    """The lines of others, and ours by name. Raises `Broken`."""
    others: list[str] = []
    ours: dict[str, str] = {}
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            others.append(line)
            continue
        found = _PASSWORD_LINE.fullmatch(line.rstrip())
        if found is None:
            raise Broken(f"has a line {number} that is no user name, colon and hashed password: correct or remove it")
        name = found["name"]
        if name in seen:
            raise Broken(f"names {name!r} in lines {seen[name]} and {number}: remove one of them")
        seen[name] = number
        if is_ours(name) or name == CANARY:
            ours[name] = line.rstrip()[len(name) + 1 :]
        else:
            others.append(line)
    return others, ours


def render_passwords(others: Iterable[str], ours: Mapping[str, str]) -> str:
    """The file again. Raises `Broken` rather than write what could not be read back."""
    text = "".join(f"{line}\n" for line in (*others, *(f"{name}:{hash_}" for name, hash_ in ours.items())))
    parse_passwords(text)
    return text


def parse_rights(text: str) -> tuple[str, dict[str, list[str]]]:
    """What others wrote into the ACL file, and our sections: user name -> its lines. Raises `Broken`."""
    before, begin, rest = text.partition(f"{_BEGIN}\n")
    if not begin:
        return text, {}
    region, end, after = rest.partition(f"{_END}\n")
    if not end:
        raise Broken(f"has our first mark and lacks the last one, {_END!r}: put it back, or remove what is ours")
    ours: dict[str, list[str]] = {}
    section: list[str] = []
    for line in region.splitlines():
        word, _, username = line.partition(" ")
        if word == "user":
            section = ours.setdefault(username, [])
        else:
            section.append(line)
    return before + after, ours


def rights(grant: Grant) -> list[str]:
    """Lines of one device: the topics of the credential's own client id, whatever id it connects under."""
    return [
        *(f"topic readwrite {one}" for one in grant.publish if one in grant.subscribe),
        *(f"topic write {one}" for one in grant.publish if one not in grant.subscribe),
        *(f"topic read {one}" for one in grant.subscribe if one not in grant.publish),
    ]


def render_rights(others: str, ours: Mapping[str, Iterable[str]]) -> str:
    """The file again; our region stands last, since lines behind a `user` line are that user's."""
    if others and not others.endswith("\n"):
        others += "\n"
    lines = [_BEGIN]
    for username, section in ours.items():
        lines += [f"user {username}", *section]
    return others + "".join(f"{line}\n" for line in (*lines, _END))
