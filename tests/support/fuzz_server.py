"""A web server that answers one file with any bytes, and the others of a folder as they are."""

import re
import socket
import threading
from contextlib import suppress
from pathlib import Path


class RawServer:
    """Answers on loopback in a thread, one request a connection: `name` with the bytes `answer`, others from `folder`."""

    def __init__(self) -> None:
        self.folder, self.name, self.answer = Path("/nowhere"), "", b""
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection, suppress(OSError):
                connection.settimeout(5)
                request = b""
                while b"\r\n\r\n" not in request and (data := connection.recv(65536)):
                    request += data
                if asked := re.match(r"(GET|HEAD) /(\S*) ", request.decode("latin-1")):
                    answer = self._find(asked[2])
                    connection.sendall(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if asked[1] == "HEAD" else answer)
                connection.shutdown(socket.SHUT_WR)

    def _find(self, name: str) -> bytes:
        if name == self.name:
            return self.answer
        if not (self.folder / name).is_file():
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        body = (self.folder / name).read_bytes()
        dated = b"Connection: close\r\nLast-Modified: Sat, 01 Jan 2000 00:00:00 GMT"
        return b"HTTP/1.1 200 OK\r\n%s\r\nContent-Length: %d\r\n\r\n%s" % (dated, len(body), body)
