"""Ports for servers that cannot choose one themselves."""

import contextlib
import random
import socket

__all__ = ["free_port", "free_ports"]


def free_ports(count):
    """Ports on loopback that nobody listens on, of those that the kernel does not choose: tests run side by side."""
    with contextlib.ExitStack() as bound:
        found = []
        for port in random.SystemRandom().sample(range(20_000, 32_000), 1000):
            probe = bound.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError("no free port was found")


def free_port():
    """One of them."""
    return free_ports(1)[0]
