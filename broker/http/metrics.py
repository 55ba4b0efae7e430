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
        job_failures: Callable[[], int],
    ) -> None:
        self._claims = claims
        self._connections = connections
        self._bridge = bridge
        self._job_failures = job_failures

    def collect(self) -> Iterator[Metric]:
        claims = CounterMetricFamily("provisioner_claims", "Claims answered, by reason.", labels=("reason",))
        for reason, count in sorted(self._claims().items()):
            claims.add_metric((reason,), count)
        yield claims
        bridge = CounterMetricFamily("provisioner_bridge", "What came to the bridge, by event.", labels=("event",))
        for event, count in self._bridge().items():
            bridge.add_metric((event,), count)
        yield bridge
        yield CounterMetricFamily(
            "provisioner_job_failures", "Jobs that failed by our own fault, each tried again.", self._job_failures()
        )
        yield GaugeMetricFamily(
            "provisioner_connections", "Provisioning connections open now.", value=self._connections()
        )


def registry(
    claims: Callable[[], Mapping[str, int]],
    connections: Callable[[], int],
    bridge: Callable[[], Mapping[str, int]] = dict,
    job_failures: Callable[[], int] = int,
) -> CollectorRegistry:
    """Registry of the figures above; not the global one.

    `provisioner_claims_total{reason}`, `provisioner_connections`, `provisioner_bridge_total{event}`,
    `provisioner_job_failures_total`.
    """
    made = CollectorRegistry()
    made.register(_Figures(claims, connections, bridge, job_failures))
    return made
