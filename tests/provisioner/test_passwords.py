"""Provisioning logins: generated and chosen passwords, and what their verification costs."""

from __future__ import annotations

import asyncio
import os

import pytest

from provisioner.errors import Unavailable
from provisioner.passwords import Passwords


async def test_generated_and_chosen_passwords_verify() -> None:
    passwords = Passwords(os.urandom)
    for stored in (passwords.hash_generated("right"), await passwords.hash_chosen("right")):
        assert "right" not in stored
        assert await passwords.verify(stored, b"right", slow_refusals=True)
        for wrong in (b"wrong", b"", b"\xff\x00", b"right "):
            assert not await passwords.verify(stored, wrong, slow_refusals=False)
    assert not await passwords.verify(None, b"right", slow_refusals=True)


async def test_a_verified_password_is_remembered_for_that_user_alone() -> None:
    passwords = Passwords(os.urandom)
    one, two = await passwords.hash_chosen("p"), await passwords.hash_chosen("q")
    assert await passwords.verify(one, b"p", slow_refusals=True)
    assert await passwords.verify(one, b"p", slow_refusals=True)
    assert not await passwords.verify(two, b"p", slow_refusals=True)
    assert not await passwords.verify(None, b"p", slow_refusals=False)


async def test_a_storm_of_slow_verifications_is_refused_not_queued() -> None:
    passwords = Passwords(os.urandom)
    stored = await passwords.hash_chosen("p")
    outcomes = await asyncio.gather(
        *(passwords.verify(stored, b"wrong%d" % n, slow_refusals=True) for n in range(40)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Unavailable) for outcome in outcomes) == 8
    with pytest.raises(Unavailable):
        raise next(outcome for outcome in outcomes if isinstance(outcome, Unavailable))


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provisioner.passwords._REMEMBERED", 2)
    passwords = Passwords(os.urandom)
    for text in ("one", "two", "three", "four"):
        assert await passwords.verify(passwords.hash_generated(text), text.encode(), slow_refusals=True)
    assert len(passwords._verified) == 2


async def test_a_herd_with_one_login_is_verified_once() -> None:
    passwords = Passwords(os.urandom)
    stored = await passwords.hash_chosen("p")
    tasks = [asyncio.create_task(passwords.verify(stored, b"p", slow_refusals=True)) for _ in range(500)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert await asyncio.gather(*tasks[1:]) == [True] * 499
    assert tasks[0].cancelled()
    assert not await passwords.verify(stored, b"q", slow_refusals=True)
