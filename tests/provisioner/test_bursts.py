"""Work that is asked for together is done together, each for who asked."""

from __future__ import annotations

import asyncio

import pytest

from provisioner.bursts import Burst


async def test_what_is_asked_for_in_one_turn_is_done_at_one_go_and_in_order() -> None:
    done: list[str] = []

    def work(item: str) -> str:
        done.append(item)
        return item.upper()

    burst = Burst(work)
    tasks = [asyncio.create_task(burst.ask(item)) for item in "abc"]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert done == ["a", "b", "c"]
    assert [await task for task in tasks] == ["A", "B", "C"]


async def test_a_failure_is_for_who_asked_alone() -> None:
    burst = Burst[str, int](int)
    outcomes = await asyncio.gather(*map(burst.ask, ("1", "one", "2")), return_exceptions=True)
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], ValueError)
    assert outcomes[2] == 1 + 1


async def test_nothing_is_done_for_who_has_gone() -> None:
    done: list[str] = []
    burst = Burst[str, None](done.append)
    gone, stays = (asyncio.create_task(burst.ask(item)) for item in ("gone", "stays"))
    await asyncio.sleep(0)
    gone.cancel()
    await stays
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert done == ["stays"]
