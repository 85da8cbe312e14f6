"""Whose program is at the other end of a connection: on one machine, any user can connect to a port of another."""

import errno
import os
import socket
import struct

# Linux's interface for it, sock_diag(7): a request for one connection, and what is read of the answer.
_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST = 1  # NLM_F_REQUEST
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_WANTED = struct.Struct("=BBBxI")  # family, protocol, extensions, states
_ENDS = struct.Struct("!HH16s16s")  # ports of the owner and of the other, their addresses
_ANY_INTERFACE_AND_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_FOUND = struct.Struct("=BBxx48xIIII")  # family, state, ..., expires, queues, user

_ESTABLISHED = 1
"""The only state in which Linux says whose a connection is: of one that is being closed it says the system's."""


def user_of(client: tuple[str, int], server: tuple[str, int]) -> int | None:
    """Id of the user whose program holds the client's end of a connection on this machine.

    Args:
        client: Numeric address and port of its end.
        server: The same of ours.

    Returns:
        ``None`` if the connection is not there (any more).

    Raises:
        OSError: If the system does not say: only Linux does, and not everywhere.
    """
    family = socket.AF_INET6 if ":" in client[0] else socket.AF_INET
    hosts = (socket.inet_pton(family, host) for host, _ in (client, server))
    request = _WANTED.pack(family, socket.IPPROTO_TCP, 0, 1 << _ESTABLISHED)
    request += _ENDS.pack(client[1], server[1], *hosts) + _ANY_INTERFACE_AND_COOKIE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as system:
        system.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST, 0, 0) + request)
        answer = system.recv(4096)
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _BY_FAMILY:
        (code,) = struct.unpack_from("=i", answer, _HEADER.size)
        if -code == errno.ENOENT:
            return None
        raise OSError(-code, os.strerror(-code))
    _, state, *_, user = _FOUND.unpack_from(answer, _HEADER.size)
    return user if state == _ESTABLISHED else None


def users_are_seen() -> bool:
    """Whether this system says whose connections are, tried with one of our own."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        try:
            return user_of(client.getsockname(), server.getsockname()) is not None
        except (OSError, AttributeError):  # no such kind of socket
            return False
