"""Which way environments are hosted."""

from collections.abc import Callable, Mapping

from agentopd.isolation.lane import Host, Isolation
from agentopd.isolation.processes import Processes
from agentopd.isolation.threads import Threads

HOSTS: Mapping[Isolation, Callable[[float], Host]] = {"thread": Threads, "process": Processes}


def host(isolation: Isolation, time_limit: float) -> Host:
    """What hosts environments for the thread that asks; a call of one may take ``time_limit`` seconds.

    Raises:
        ConfigError: This system has no such way.
    """
    return HOSTS[isolation](time_limit)
