"""A Ray cluster on this machine, and runs on it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
SMALL = 100 * 2**20
"""Bytes of a node's object store."""


@contextmanager
def nodes(count: int) -> Iterator[Any]:
    """A cluster of a node without processors, to which this process belongs, and ``count`` others of one each."""
    import ray
    from ray.cluster_utils import Cluster

    from agentopd.cluster import close

    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=0, object_store_memory=SMALL, include_dashboard=False)
        for _ in range(count):
            cluster.add_node(num_cpus=1, object_store_memory=SMALL)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
        yield cluster
    finally:
        close()
        ray.shutdown()
        cluster.shutdown()
