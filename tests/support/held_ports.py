"""Ports for programs that have to be told theirs."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def held_ports(count: int) -> Iterator[tuple[int, ...]]:
    """Ports of the loopback interface that nobody else is given for as long as the context lasts.

    Each is held by a socket that is bound and does not listen: the kernel gives the port to no connection and
    to no socket that takes any, and a program that sets SO_REUSEADDR, as all of Go do, may listen there.
    """
    with ExitStack() as stack:
        holders = [stack.enter_context(socket.socket()) for _ in range(count)]
        for holder in holders:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", 0))
        yield tuple(holder.getsockname()[1] for holder in holders)
