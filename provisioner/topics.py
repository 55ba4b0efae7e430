"""Topic rights of a device: filters with places for its account and client id.

1. A filter starts with the account's name, so no policy reaches into another account (domain, coupling).
2. The client id is the one actually used: with a LOOSE credential it is known at the login only.
3. As text, rights are JSON: `{"publish": [filter, …], "subscribe": [filter, …]}`; None means everything under
   `{account}/{clientId}/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from string import Template

from provisioner.errors import Invalid
from provisioner.model import Credential, Grant, topic_rights

MOST_FILTERS = 16
LONGEST_FILTER = 255
_START = "${account}/"
_PLACES = frozenset(("account", "clientId"))


def parse_topics(said: Mapping[str, object]) -> str:
    """Text of rights as an operator writes them. Raises `Invalid`."""
    rights: dict[str, list[str]] = {}
    for verb in ("publish", "subscribe"):
        filters = said.get(verb, [])
        if not isinstance(filters, list) or len(filters) > MOST_FILTERS:
            raise Invalid("invalid-topics", f"topics.{verb} must be at most {MOST_FILTERS} filters", field="topics")
        rights[verb] = [_parse_filter(one, verb) for one in filters]
    if said.keys() - rights.keys():
        raise Invalid("invalid-topics", "topics has publish and subscribe, and nothing else", field="topics")
    return json.dumps(rights, separators=(",", ":"))


def _parse_filter(said: object, verb: str) -> str:
    if not isinstance(said, str) or not said.startswith(_START) or len(said) > LONGEST_FILTER:
        raise Invalid("invalid-topics", f"a filter of topics.{verb} must start with {_START}", field="topics")
    template = Template(said)
    if not template.is_valid() or not set(template.get_identifiers()) <= _PLACES:
        raise Invalid("invalid-topics", "a filter has places for ${account} and ${clientId} only", field="topics")
    levels = template.substitute(account="a", clientId="c").split("/")
    well_formed = (
        all(level in ("+", "#") or not set(level) & set("+#\0") for level in levels) and "#" not in levels[:-1]
    )
    if not well_formed or not said.isprintable():
        raise Invalid("invalid-topics", f"topics.{verb} has a filter that MQTT does not know", field="topics")
    return said


def grant_of(credential: Credential, client_id: str) -> Grant:
    """What a credential may do when it is used with this client id."""
    if credential.topics is None:
        return topic_rights(credential.account_name, client_id)
    publish, subscribe = _templates(credential.topics)
    names = {"account": credential.account_name, "clientId": client_id}
    return Grant(
        publish=tuple(one.substitute(names) for one in publish),
        subscribe=tuple(one.substitute(names) for one in subscribe),
    )


@lru_cache(256)
def _templates(text: str) -> tuple[tuple[Template, ...], tuple[Template, ...]]:
    rights = json.loads(text)
    return tuple(map(Template, rights["publish"])), tuple(map(Template, rights["subscribe"]))
