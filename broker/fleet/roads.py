"""The way from units to servers: straight, or through bad weather.

1. Every server gets a fault proxy of its own when it is first asked for: the one that devices claim at, and each
   device broker that an offer names.
2. A login at a device broker is a few bytes, so resets and silence strike earlier there, and no packet is touched.
3. TLS goes through as it is: certificates are still checked for the server that was meant, and packets cannot be told
   apart in it.
"""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Self

from broker.fleet.faults import FaultProxy, Toll, Weather
from broker.fleet.replies import Address

_LOGIN_REACH = 150


class Roads:
    """Open within `async with`; without weather every road is straight."""

    def __init__(self, weather: Weather | None = None, *, to_device_broker: bool = True) -> None:
        self._weather = weather
        self._to_device_broker = to_device_broker
        self._proxies: dict[Address, tuple[FaultProxy, Address]] = {}
        self._building = asyncio.Lock()

    async def to_provisioner(self, address: Address) -> Address:
        """Where to connect to reach the server that devices claim at. Raises ValueError where TLS hides packets."""
        if self._weather is None:
            return address
        if address.tls and self._weather.touches_packets:
            raise ValueError("messages inside TLS cannot be lost, doubled or overtaken: leave TLS or those shares out")
        return await self._through(address, self._weather)

    async def to_device_broker(self, address: Address) -> Address:
        """Where to connect to reach a device broker."""
        if self._weather is None or not self._to_device_broker:
            return address
        weather = self._weather
        reach = min(weather.reach, _LOGIN_REACH)
        return await self._through(address, replace(weather, reach=reach, doubled=0, lost=0, overtaken=0))

    @property
    def toll(self) -> Toll:
        """What the weather did on all roads."""
        tolls = [proxy.toll for proxy, _ in self._proxies.values()]
        return Toll(
            sum((toll.connections for toll in tolls), Counter()), sum((toll.packets for toll in tolls), Counter())
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(proxy.stop() for proxy, _ in self._proxies.values()))

    async def _through(self, address: Address, weather: Weather) -> Address:
        async with self._building:
            if address not in self._proxies:
                proxy = FaultProxy(weather, address)
                port = await proxy.start()
                self._proxies[address] = proxy, Address("127.0.0.1", port, address.tls)
            return self._proxies[address][1]
