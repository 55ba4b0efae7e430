"""P-7: ten thousand devices arrive within ten seconds, and every one is provisioned, answered and counted.

The devices are the shipped reference devices; on the way they log in at the embedded device broker as well. The server
begins with the usual soft limit of 1,024 open files.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import herd
from tests.proof.scale import record, rounds


@pytest.mark.timeout(rounds(60, 600, 600))
async def test_all_are_confirmed_and_every_claim_is_answered(tmp_path: Path) -> None:
    devices = rounds(300, 10_000, 10_000)
    came = await herd.run(devices, tmp_path, lambda _: None, lambda _: None)
    assert (came.confirmed, came.failed) == (devices, {})
    assert came.answered == came.claims
    assert came.ended < herd.PATIENCE
    assert came.memory < herd.MOST_MEMORY
    record(
        "herd",
        "P-7",
        devices=devices,
        arrived_in=f"{came.spread:g} s",
        confirmed=came.confirmed,
        confirmed_within=f"{came.ended:.1f} s",
        p50=f"{came.percentile(50):.1f} s",
        p99=f"{came.percentile(99):.1f} s",
        claims=came.claims,
        answered=came.answered,
        told_to_slow_down=came.replies["slow-down"],
        connects_turned_away=came.turned_away,
        connects_in_vain=came.lost.total(),
        memory=f"{came.memory / 2**20:.0f} MiB",
        open_files=came.files,
    )
