"""The few figures Prometheus reads: they are asked for when it asks, nothing is counted twice.

`registry` takes callables, so that whoever counts (endpoint, service) need not know Prometheus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class _Figures(Collector):
    def __init__(self, claims: Callable[[], Mapping[str, int]], connections: Callable[[], int]) -> None:
        self._claims = claims
        self._connections = connections

    def collect(self) -> Iterator[Metric]:
        claims = CounterMetricFamily("provisioner_claims", "Claims answered, by reason.", labels=("reason",))
        for reason, count in sorted(self._claims().items()):
            claims.add_metric((reason,), count)
        yield claims
        yield GaugeMetricFamily(
            "provisioner_connections", "Provisioning connections open now.", value=self._connections()
        )


def registry(claims: Callable[[], Mapping[str, int]], connections: Callable[[], int]) -> CollectorRegistry:
    """Registry of `provisioner_claims_total{reason}` and `provisioner_connections`; not the global one."""
    made = CollectorRegistry()
    made.register(_Figures(claims, connections))
    return made
