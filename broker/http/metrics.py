"""The few figures Prometheus reads: they are asked for when it asks, nothing is counted twice.

`registry` takes callables, so that whoever counts (endpoint, service) need not know Prometheus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class _Figures(Collector):
    def __init__(
        self,
        claims: Callable[[], Mapping[str, int]],
        connections: Callable[[], int],
        bridge: Callable[[], Mapping[str, int]],
    ) -> None:
        self._claims = claims
        self._connections = connections
        self._bridge = bridge

    def collect(self) -> Iterator[Metric]:
        claims = CounterMetricFamily("provisioner_claims", "Claims answered, by reason.", labels=("reason",))
        for reason, count in sorted(self._claims().items()):
            claims.add_metric((reason,), count)
        yield claims
        bridge = CounterMetricFamily("provisioner_bridge", "What came to the bridge, by event.", labels=("event",))
        for event, count in self._bridge().items():
            bridge.add_metric((event,), count)
        yield bridge
        yield GaugeMetricFamily(
            "provisioner_connections", "Provisioning connections open now.", value=self._connections()
        )


def registry(
    claims: Callable[[], Mapping[str, int]],
    connections: Callable[[], int],
    bridge: Callable[[], Mapping[str, int]] = dict,
) -> CollectorRegistry:
    """Registry of `provisioner_claims_total{reason}`, `provisioner_connections` and `provisioner_bridge_total{event}`.

    Not the global one.
    """
    made = CollectorRegistry()
    made.register(_Figures(claims, connections, bridge))
    return made
