"""Whose program is at the other end of a connection: on one machine, any user can connect to a port of another."""

import socket
import sys
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"
"""The only state in which Linux says whose a connection is: of one that is being closed it says the system's."""

_LOOKS = 3
"""A line of the table can be missing from one reading, while others come and go."""


def user_of(client: tuple[str, int], server: tuple[str, int]) -> int | None:
    """Id of the user whose program holds the client's end of a connection on this machine.

    Args:
        client: Numeric address and port of its end.
        server: The same of ours.

    Returns:
        ``None`` if the connection is not there (any more), or the system does not say: only Linux does.
    """
    ends = [f"{_written(host)}:{port:04X}" for host, port in (client, server)]
    for _ in range(_LOOKS):
        for table in _TABLES:
            try:
                lines = table.read_text().splitlines()[1:]
            except OSError:
                continue
            for line in lines:
                _, local, remote, state, *_, user = line.split()[:8]
                # An IPv4 address may stand as an IPv6 one that ends with it.
                if state == _ESTABLISHED and local.endswith(ends[0]) and remote.endswith(ends[1]):
                    return int(user)
    return None


def users_are_seen() -> bool:
    """Whether this system says whose connections are, tried with one of our own."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        return user_of(client.getsockname(), server.getsockname()) is not None


def _written(host: str) -> str:
    """An address as the table has it: words of 32 bits, each a number in the machine's order of bytes."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    words = (packed[start : start + 4] for start in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
