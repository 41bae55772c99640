"""Ports for servers that cannot choose one themselves."""

import contextlib
import os
import random
import socket

__all__ = ["free_port", "free_ports"]


_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_given = set()


def free_ports(count):
    """Ports on loopback that nobody listens on, and that no other test is given.

    The kernel chooses none of these by itself, and tests that run side by side have others.
    """
    with contextlib.ExitStack() as bound:
        found = []
        own = [port for port in range(20_000 + _PROCESS, 32_000, _PROCESSES) if port not in _given]
        for port in random.SystemRandom().sample(own, min(1000, len(own))):
            probe = bound.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                _given.update(found)
                return found
    raise RuntimeError("no free port was found")


def free_port():
    """One of them."""
    return free_ports(1)[0]
