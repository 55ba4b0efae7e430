"""The text of Mosquitto's two files: what is others' stays, and nothing is written that a broker would choke on."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.devicebrokers.accountfiles import (
    CANARY,
    Broken,
    hashed,
    is_hash_of,
    is_ours,
    parse_passwords,
    parse_rights,
    render_passwords,
    render_rights,
    rights,
)
from provisioner.model import topic_rights
from provisioner.policy import credential_username
from tests.mosquitto import password_line

_LINE = re.compile(r"[^:\s][^:]*:\$7\$101\$[A-Za-z0-9+/]{16}\$[A-Za-z0-9+/]{86}==")
identifiers = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
theirs = st.sampled_from(
    ["# a remark", "", *(password_line(name, "x").strip() for name in ("bob", "p.x", "prov", "P.a.b.g1", "p.a.b.gx"))]
)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(theirs, unique=True), st.dictionaries(st.tuples(identifiers, identifiers), identifiers, max_size=5))
def test_passwords_go_in_and_out_and_all_other_lines_stay(
    lines: list[str], devices: dict[tuple[str, str], str]
) -> None:
    ours = {credential_username(*names, 3): hashed(password, os.urandom) for names, password in devices.items()}
    text = render_passwords(lines, ours)
    assert parse_passwords(text) == (lines, ours)
    assert all(not line or line.startswith("#") or _LINE.fullmatch(line) for line in text.splitlines())
    names = [line.partition(":")[0] for line in text.splitlines() if line and not line.startswith("#")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "line",
    ["bob", "bob:", ":x", "bob:secret", "bob:$7$101$AAAA", "bob:$7$0$AAAA$AAAA", " bob:$7$101$AAAA$AAAA", "\tbob:x"],
)
def test_a_line_that_somebody_broke_is_named_and_not_written_over(line: str) -> None:
    text = password_line("ann", "x") + line + "\n"
    with pytest.raises(Broken, match="line 2"):
        parse_passwords(text)


def test_a_name_in_two_lines_is_refused_with_both() -> None:
    with pytest.raises(Broken, match="lines 1 and 3"):
        parse_passwords(password_line("ann", "x") + "#\n" + password_line("ann", "y"))


@pytest.mark.parametrize("name", ["a:b", "a\nb", "a\rb", "", " a"])
def test_a_name_that_would_break_the_file_is_never_written(name: str) -> None:
    with pytest.raises(Broken):
        render_passwords([], {name: hashed("x", os.urandom)})


def test_hashes_are_told_apart() -> None:
    made = hashed("secret", os.urandom)
    assert is_hash_of(made, "secret")
    assert not is_hash_of(made, "Secret")
    for other in ("", "$6$AAAA$AAAA", "$7$102$AAAA$AAAA", "$argon2id$v=19"):
        assert not is_hash_of(other, "secret")


@pytest.mark.parametrize("name", ["p.acme.dev-1.g1", "p.a..b.c.d.g12", "p.acme.g1.g1"])
def test_ours_are_known_by_their_form(name: str) -> None:
    assert is_ours(name)


@pytest.mark.parametrize("name", ["p.acme", "p.g1", "p..g1", "x.p.acme.dev-1.g1", "p.acme.dev-1.g", CANARY, "p/a/b/g1"])
def test_what_is_not_ours_is_not(name: str) -> None:
    assert not is_ours(name)


OTHERS = "user bob\ntopic readwrite bobs/#\npattern read common/%u\n"


def test_rights_stand_in_one_region_at_the_end() -> None:
    text = render_rights(OTHERS, {"p.acme.dev-1.g1": rights(topic_rights("acme", "dev-1"))})
    assert text.startswith(OTHERS)
    assert "user p.acme.dev-1.g1\ntopic readwrite acme/dev-1/#\n" in text
    assert parse_rights(text) == (OTHERS, {"p.acme.dev-1.g1": ["topic readwrite acme/dev-1/#"]})


def test_what_somebody_adds_behind_our_region_does_not_become_a_devices() -> None:
    text = (
        render_rights(OTHERS, {"p.acme.dev-1.g1": rights(topic_rights("acme", "dev-1"))})
        + "user ann\ntopic read all/#\n"
    )
    others, ours = parse_rights(text)
    again = render_rights(others, ours)
    assert again.index("user ann") < again.index("user p.acme")
    assert parse_rights(again) == (others, ours)


def test_half_a_region_is_refused() -> None:
    text = render_rights(OTHERS, {})
    with pytest.raises(Broken, match="put it back"):
        parse_rights(text.replace("# provisioner: end\n", ""))


def test_a_file_without_a_last_line_end_keeps_its_last_line() -> None:
    assert parse_rights(render_rights("user bob\ntopic read x", {}))[0] == "user bob\ntopic read x\n"
