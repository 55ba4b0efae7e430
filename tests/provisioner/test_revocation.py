"""Revocation lists: what was retired is on them, and their numbers only go up."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from certs.crl import Crl
from certs.hierarchy import create_issuer
from certs.keys import P256, generate
from certs.profile import Purpose
from provisioner.model import DeviceCertificate
from provisioner.revocation import GOOD_FOR, RevocationLists
from tests.provisioner.conftest import ADMIN, ISSUER, ROOT, START, World, an_authority
from tests.provisioner.test_certificates import DAY, csr_of, leaf_of, prescribed

OURS = an_authority().issuers[0].id


class Shelf:
    """Where lists are published."""

    def __init__(self, world: World, numbers: Mapping[str, int] | None = None) -> None:
        self.published = 0
        self.der: Mapping[str, bytes] = {}
        self.lists = RevocationLists(world.store.certificates, world.certification, self.take, numbers or {})

    def take(self, lists: Mapping[str, bytes]) -> None:
        self.published += 1
        self.der = lists

    @property
    def crl(self) -> Crl:
        return Crl(self.der[OURS], ISSUER.certificate)


async def revoked(world: World, client_id: str = "dev-1") -> int:
    """A device whose certificate an operator revoked; its serial."""
    created, device = await prescribed(world, client_id)
    offer = await device.claim(csr=csr_of(generate(P256)))
    await device.ack()
    await world.administration.revoke(ADMIN, created.request.id, world.now)
    return leaf_of(offer).serial_number


async def test_what_an_operator_revokes_is_on_the_next_list_and_the_rest_is_not(world: World) -> None:
    shelf = Shelf(world)
    await shelf.lists.step(world.now)
    assert shelf.crl.revoked == {}
    _, device = await prescribed(world, "dev-2")
    kept = await device.claim(csr=csr_of(generate(P256)))
    serial = await revoked(world)
    await shelf.lists.step(world.now)
    assert shelf.crl.revoked == {serial: world.now}
    assert not shelf.crl.is_revoked(leaf_of(kept).serial_number)
    assert shelf.lists.lists == shelf.der


async def test_nothing_new_is_no_new_list_until_the_next_day(world: World) -> None:
    shelf = Shelf(world)
    for _ in range(3):
        world.now = await shelf.lists.step(world.now)
    assert shelf.published == 1
    assert shelf.crl.is_fresh(world.now + GOOD_FOR - DAY)
    await shelf.lists.step(world.now + DAY)
    assert shelf.published == 2
    assert shelf.crl.is_fresh(world.now + GOOD_FOR)


async def test_numbers_go_up_whatever_the_clock_does_and_after_a_restart(world: World) -> None:
    shelf = Shelf(world)
    await shelf.lists.step(world.now)
    first = shelf.crl.number
    await revoked(world)
    await shelf.lists.step(world.now - DAY)
    second = shelf.crl.number
    assert second == first + 1
    again = Shelf(world, {OURS: second})
    await again.lists.step(world.now - 2 * DAY)
    assert again.crl.number == second + 1
    lost = Shelf(world)
    await lost.lists.step(world.now + 1000)
    assert lost.crl.number >= second


async def test_a_certificate_leaves_the_list_once_it_has_ended(world: World) -> None:
    serial = await revoked(world)
    shelf = Shelf(world)
    await shelf.lists.step(world.now + 90 * DAY)
    assert shelf.crl.is_revoked(serial)
    await shelf.lists.step(world.now + 92 * DAY)
    assert not shelf.crl.is_revoked(serial)


async def test_after_a_rotation_either_issuer_lists_its_own(world: World) -> None:
    first = await revoked(world, "dev-1")
    newer = create_issuer(ROOT, "Test", Purpose.DEVICES, generate(P256), START, os.urandom)
    authority = an_authority(newer)
    world.certification.use(authority)
    second = await revoked(world, "dev-2")
    shelf = Shelf(world)
    await shelf.lists.step(world.now)
    assert set(shelf.crl.revoked) == {first}
    assert set(Crl(shelf.der[authority.issuers[1].id], newer.certificate).revoked) == {second}


async def test_an_unproved_certificate_that_is_replaced_is_listed_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that nobody may have got: it was ordered, so it may exist."""
    created, device = await prescribed(world)
    monkeypatch.setattr(world.certification, "issue", lambda _: DeviceCertificate("", 0, 0))
    await device.claim(csr=csr_of(generate(P256)))
    await world.administration.stop(ADMIN, created.request.id, world.now)
    shelf = Shelf(world)
    await shelf.lists.step(world.now)
    assert len(shelf.crl.revoked) == 1
