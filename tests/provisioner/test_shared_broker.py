"""What came through somebody else's broker: no address, no TLS, and so other rules (connection `SHARED`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.admission import Admission, Rate, WrongKeyRates
from provisioner.errors import Reason, Rejected
from provisioner.model import SHARED, Origin
from provisioner.service import Rules
from tests.provisioner.conftest import build

NOW = 1_795_377_600_000


def test_wrong_keys_there_are_limited_by_client_id_and_in_all_alone() -> None:
    admission = Admission(WrongKeyRates(Rate(3, 6), Rate(1, 6), Rate(1, 6), Rate(8, 6)))
    for number in range(8):
        admission.check_failure("factory", f"dev-{number // 3}", "bridge", SHARED, NOW)
    with pytest.raises(Rejected) as refused:
        admission.check_failure("factory", "dev-9", "bridge", SHARED, NOW)
    assert refused.value.reason is Reason.SLOW_DOWN


def test_one_client_id_there_has_its_own_limit() -> None:
    admission = Admission(WrongKeyRates(per_id=Rate(3, 6)))
    for _ in range(3):
        admission.check_failure("factory", "dev-1", "bridge", SHARED, NOW)
    with pytest.raises(Rejected):
        admission.check_failure("factory", "dev-1", "bridge", SHARED, NOW)
    admission.check_failure("factory", "dev-2", "bridge", SHARED, NOW)


async def test_a_plain_claim_there_is_refused_whatever_the_settings_allow(tmp_path: Path) -> None:
    world = await build(tmp_path, Rules(allow_plain_without_tls=True))
    try:
        device = world.device(await world.request())
        device.origin = Origin("192.0.2.1", 1, secure=False)
        assert (await device.claim_plain()).generation == 1
        device.origin = Origin("bridge", SHARED, secure=False)
        with pytest.raises(Rejected) as refused:
            await device.claim_plain()
        assert (refused.value.reason, refused.value.supported) == (Reason.UNSUPPORTED, ("proof",))
        assert (await device.claim()).generation == 1
    finally:
        await world.jobs.close()
        await world.store.close()
