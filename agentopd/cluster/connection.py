"""This process's connection to a Ray cluster, and how it ends."""

import logging
import os
import signal
import threading
from typing import Any

from agentopd.errors import ConfigError, first_line

_begun: list[bool] = []
"""One entry where this process began a Ray of its own, or joined one."""


def connected() -> Any:
    """The ``ray`` package, after this process has joined a cluster: that of ``RAY_ADDRESS``, one that runs on this machine, or a new one.

    Raises:
        ConfigError: There is no Ray, or no such cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            f'cluster: Ray cannot be imported ({first_line(error)}); pip install "agentopd[ray]", or leave cluster out'
        ) from error
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            ray.init(include_dashboard=False, logging_level=logging.WARNING)
        except Exception as error:  # an address that is none, a cluster of another version, a port in use
            address = os.environ.get("RAY_ADDRESS")
            raise ConfigError(
                f"cluster: RAY_ADDRESS={address}: Ray cannot be joined ({first_line(error)}); give the address of a running "
                "cluster, or unset it to begin one on this machine"
            ) from error
        _begun.append(True)
        if threading.current_thread() is threading.main_thread():
            for (
                number,
                handler,
            ) in handlers.items():  # Ray puts its own in their place, and a run could not say how to go on
                signal.signal(number, handler)
    return ray


def disconnected() -> None:
    """Ends the connection, where this process made it; a Ray that it began ends too."""
    if _begun:
        _begun.clear()
        import ray

        ray.shutdown()
