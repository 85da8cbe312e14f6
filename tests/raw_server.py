"""A server on 127.0.0.1 that gives the same bytes to every request and then keeps the connection open, silent."""

import socket
import ssl
import threading


class RawServer:
    """Answers until the block ends.

    Args:
        answer: Bytes sent for every request.
        plain: Whether ``answer`` is a body only, to be sent with a correct head.
        tls: Speaks TLS with it, where given.
        drip_s: Sends the answer byte by byte, with so many seconds between; 0 sends it at once.

    Attributes:
        port: Where it listens.
        host: ``127.0.0.1:port``.
        url: An address on it.
        requests: Requests until now.
        connections: Connections until now.
        heads: Each request's head.
    """

    def __init__(
        self, answer: bytes, plain: bool = False, tls: ssl.SSLContext | None = None, drip_s: float = 0.0
    ) -> None:
        if plain:
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer
        self.answer, self.tls, self.drip_s = answer, tls, drip_s
        self.requests = self.connections = 0
        self.heads: list[bytes] = []
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}/a.jpg"
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> "RawServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        # Wakes ``accept``, which closing alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(10)
                if self.tls:
                    connection = self.tls.wrap_socket(connection, server_side=True)
                while not self._stopping.is_set():
                    head = b""
                    while b"\r\n\r\n" not in head:
                        more = connection.recv(65536)
                        if not more:
                            return
                        head += more
                    self.requests += 1
                    self.heads.append(head)
                    if not self.drip_s:
                        connection.sendall(self.answer)
                    for byte in self.answer if self.drip_s else b"":
                        connection.sendall(bytes([byte]))
                        if self._stopping.wait(self.drip_s):
                            return
            except OSError:
                return  # the client went away
