"""An HTTP proxy between a broker and its object store that answers 500 or 503, hangs, is slow, or
cuts what is answered, when the test says so."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

STATUS = {"500": "500 Internal Server Error", "503": "503 Slow Down"}
CUT_AT = 700
SLOW_S = 0.05


class Proxy:
    """A context manager; `mode` says what becomes of requests: "" passes them on."""

    def __init__(self, port: int) -> None:
        """`port` is the store's, on loopback."""
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._mode = ""
        self._open: set[socket.socket] = set()
        self.faults = 0
        """Requests that did not get what they asked for."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def mode(self) -> str:
        """Today's."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        self._mode = mode
        # Whoever waits for an answer is to ask again.
        for one in list(self._open):
            _close(one)

    def close(self) -> None:
        """The port is free."""
        _close(self._listener)
        self.mode = ""

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.add(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        mode = self._mode
        with suppress(OSError):
            if mode in STATUS:
                self.faults += 1
                _read_request(client)
                answer = (
                    f"HTTP/1.1 {STATUS[mode]}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
                client.sendall(answer.encode())
            elif mode == "hang":
                self.faults += 1
                while client.recv(65536):
                    pass
            elif mode != "down":
                self._pass_on(client, mode)
        _close(client)
        self._open.discard(client)

    def _pass_on(self, client: socket.socket, mode: str) -> None:
        store = socket.create_connection(("127.0.0.1", self._port))
        self._open.add(store)

        def forward() -> None:
            with suppress(OSError):
                while data := client.recv(65536):
                    store.sendall(data)
            _close(store)

        threading.Thread(target=forward, daemon=True).start()
        left = CUT_AT
        while data := store.recv(65536):
            if mode == "slow":
                time.sleep(SLOW_S)
            if mode == "cut":
                data = data[:left]
                left -= len(data)
            client.sendall(data)
            if not left:
                self.faults += 1
                break
        _close(store)
        self._open.discard(store)


def _read_request(client: socket.socket) -> None:
    """The head and, as far as it comes, the body."""
    client.settimeout(0.2)
    with suppress(TimeoutError):
        while client.recv(65536):
            pass
    client.settimeout(None)


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
