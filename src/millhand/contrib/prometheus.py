"""
The metrics of a client in an application's own registry of `prometheus_client`; needs `millhand[metrics]`.

    from prometheus_client import REGISTRY

    REGISTRY.register(MillhandCollector(client))
"""

from __future__ import annotations

from millhand.client import Client
from millhand.observe.prometheus import PointsCollector


class MillhandCollector(PointsCollector):
    """
    Collects a client's metrics whenever its registry is asked; before the start and after the stop, only the counts.

    A registry refuses a second collector, because both would have the same names: give each client its own registry.
    """

    def __init__(self, client: Client) -> None:
        super().__init__(client.read_metrics)
