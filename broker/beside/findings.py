"""What the doctor found, and what helps: the missing or superfluous line in the words of *this* broker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from broker.beside.setup import Kind


class Verdict(StrEnum):
    """`LEAK`: the bridge must not serve there. `PROBLEM`: it does not work, or not well. `NOTE`: good to know."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"
    LEAK = "leak"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to, in a sentence; `cure` is empty where there is nothing to cure."""

    check: str
    verdict: Verdict
    detail: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Names:
    """What cures are filled in with."""

    root: str
    bridge: str
    user: str


_MOSQUITTO: Final[Mapping[str, str]] = {
    "bridge-login": "password_file needs a line for {bridge}: sudo mosquitto_passwd FILE {bridge}",
    "device-login": "password_file needs a line for {user}: sudo mosquitto_passwd FILE {user}",
    "anonymous": "write: allow_anonymous false",
    "any-password": "write: allow_anonymous false, and name a password_file",
    "bridge-read": "acl_file, below user {bridge}: topic readwrite {root}/+/+/{kind}",
    "bridge-write": "acl_file, below user {bridge}: topic write {root}/+/+/reply",
    "clear": "acl_file, below user {bridge}: topic readwrite {root}/+/+/request",
    "device-write": "acl_file: pattern write {root}/%u/%c/{kind}",
    "device-read": "acl_file: pattern read {root}/%u/%c/reply",
    "read-others": "acl_file: nothing under {root} but pattern read {root}/%u/%c/reply may let {user} read; take out "
    "what grants {filter}",
    "no-acl": "name an acl_file, with the lines that provisioner broker setup mosquitto writes",
    "write-others": "acl_file: nothing but pattern write {root}/%u/%c/request and {root}/%u/%c/ack may let {user} "
    "write under {root}; take out what grants {filter}",
    "own-reply": "acl_file: pattern read (not readwrite) {root}/%u/%c/reply, and no pattern that ends with #",
    "will": "acl_file: as for writing; a Will is checked like a message since Mosquitto 2.0",
    "client-ids": "acl_file: %c only as a whole level of a pattern; Mosquitto 2 refuses + and # in it by itself",
    "nagle": "write: set_tcp_nodelay true",
    "version": "update to Mosquitto 2.0.11 or later",
}
_VERNEMQ: Final[Mapping[str, str]] = {
    "bridge-login": "sudo vmq-passwd /etc/vernemq/vmq.passwd {bridge}",
    "device-login": "sudo vmq-passwd /etc/vernemq/vmq.passwd {user}",
    "anonymous": "vernemq.conf: allow_anonymous = off",
    "any-password": "vernemq.conf: allow_anonymous = off and plugins.vmq_passwd = on",
    "no-acl": "vmq.acl: take out topic #, and add the lines that provisioner broker setup vernemq writes",
    "nagle": "vernemq.conf: tcp_listen_options must have {{nodelay, true}}",
} | {key: text.replace("acl_file", "vmq.acl") for key, text in _MOSQUITTO.items() if text.startswith("acl_file")}
_EMQX: Final[Mapping[str, str]] = {
    "bridge-login": "add {bridge} to the authenticator: Access Control, Authentication, Users",
    "device-login": "add {user} to the authenticator: Access Control, Authentication, Users",
    "anonymous": "configure an authenticator: without one EMQX admits everybody",
    "any-password": "configure an authenticator: without one EMQX admits everybody",
    "bridge-read": 'acl.conf: {{allow, {{username, "{bridge}"}}, subscribe, ["{root}/+/+/{kind}"]}}.',
    "bridge-write": 'acl.conf: {{allow, {{username, "{bridge}"}}, publish, ["{root}/+/+/reply"]}}.',
    "clear": 'acl.conf: {{allow, {{username, "{bridge}"}}, publish, ["{root}/+/+/request", "{root}/+/+/ack"]}}.',
    "device-write": 'acl.conf: {{allow, all, publish, ["{root}/${{username}}/${{clientid}}/{kind}"]}}.',
    "device-read": 'acl.conf: {{allow, all, subscribe, [{{eq, "{root}/${{username}}/${{clientid}}/reply"}}]}}.',
    "read-others": 'acl.conf, above what grants {filter}: {{deny, all, subscribe, ["{root}/#"]}}.',
    "no-acl": "authorization.no_match = deny, and acl.conf with the lines that provisioner broker setup emqx writes",
    "write-others": 'acl.conf, above what grants {filter}: {{deny, all, publish, ["{root}/#"]}}.',
    "own-reply": 'acl.conf: {{deny, all, publish, ["{root}/#"]}}. below the two lines for request and ack',
    "will": 'acl.conf: {{deny, all, publish, ["{root}/#"]}}.',
    "client-ids": "acl.conf: {{eq, …}} around what has ${{clientid}} in a subscription",
    "nagle": "listeners.tcp.default.tcp_options.nodelay = true",
}
_RABBITMQ: Final[Mapping[str, str]] = {
    "bridge-login": "sudo rabbitmqctl add_user {bridge}, with the password of bridge.login_file",
    "device-login": "sudo rabbitmqctl add_user {user}, with the password of provision-login",
    "anonymous": "rabbitmq.conf: mqtt.allow_anonymous = false",
    "any-password": "rabbitmq.conf: mqtt.allow_anonymous = false",
    "bridge-read": "set_topic_permissions {bridge} amq.topic: its read pattern must match {dotted}.USER.ID.{kind}",
    "bridge-write": "set_topic_permissions {bridge} amq.topic: its write pattern must match {dotted}.USER.ID.reply",
    "clear": "set_topic_permissions {bridge} amq.topic: its write pattern must match {dotted}.USER.ID.request",
    "device-write": "set_topic_permissions {user} amq.topic: its write pattern must match "
    "{dotted}.{user}.{{client_id}}.{kind}",
    "device-read": "set_topic_permissions {user} amq.topic: its read pattern must match "
    "{dotted}.{user}.{{client_id}}.reply",
    "read-others": r"set_topic_permissions {user} amq.topic: its read pattern must be no more than "
    r"^{dotted}\.{user}\.{{client_id}}\.reply$",
    "no-acl": "import the definitions that provisioner broker setup rabbitmq writes: without topic permissions "
    "every topic is granted",
    "write-others": r"set_topic_permissions {user} amq.topic: its write pattern must be no more than "
    r"^{dotted}\.{user}\.{{client_id}}\.(request|ack)$",
    "own-reply": "set_topic_permissions {user} amq.topic: its write pattern must not match reply",
    "will": "set_topic_permissions {user} amq.topic: as for writing",
    "client-ids": "update to RabbitMQ 4.3 or later, or use its HTTP authorization: earlier ones paste the client id "
    "into the pattern as it comes",
    "nagle": "rabbitmq.conf: mqtt.tcp_listen_options.nodelay = true",
}
_ANY: Final[Mapping[str, str]] = {
    "reach": "start the broker, or correct bridge.url",
    "tls": "name the file that vouches for it in bridge.ca, or give the broker a certificate for that name",
    "expiry": "renew the broker's certificate",
    "clear-text": "give the broker a TLS listener, and write bridge.url = mqtts://…",
    "clock": "set the clock of this machine, and keep it with NTP",
    "bridge-login": "let {bridge} log in, with the password of bridge.login_file",
    "device-login": "let {user} log in, with the password of the data directory's provision-login",
    "anonymous": "refuse clients without a login",
    "any-password": "refuse wrong passwords",
    "bridge-read": "let {bridge} subscribe to {root}/+/+/{kind}",
    "bridge-write": "let {bridge} publish to {root}/+/+/reply",
    "clear": "let {bridge} publish to {root}/+/+/request and {root}/+/+/ack",
    "device-write": "let {user} publish to {root}/(its user name)/(its client id)/{kind}",
    "device-read": "let {user} subscribe to {root}/(its user name)/(its client id)/reply",
    "read-others": "let {user} read {root}/(its user name)/(its client id)/reply alone; something grants {filter}",
    "no-acl": "give the broker access rules for topics: everybody may read and write everything",
    "write-others": "let {user} write its own request and ack alone; something grants {filter}",
    "own-reply": "let {user} read its own reply, not write it",
    "will": "have a Will checked like a message",
    "client-ids": "refuse client ids other than letters, digits and . _ : -",
    "nagle": "set TCP_NODELAY on the broker's listener",
    "version": "update the broker",
}
_WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    Kind.MOSQUITTO: _MOSQUITTO,
    Kind.VERNEMQ: _VERNEMQ,
    Kind.EMQX: _EMQX,
    Kind.RABBITMQ: _RABBITMQ,
}


def cure(broker: str, ill: str, names: Names, *, kind: str = "request", topic_filter: str = "") -> str:
    """What helps against `ill` at this broker; `kind` and `topic_filter` say which topic it is about."""
    text = _WORDS.get(broker, {}).get(ill) or _ANY[ill]
    return text.format(
        root=names.root,
        dotted=names.root.replace("/", "."),
        bridge=names.bridge,
        user=names.user,
        kind=kind,
        filter=topic_filter,
    )
