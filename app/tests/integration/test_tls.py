"""TLS over memory buffers: what a node's connection must do when the other side behaves, and when it does not."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pki import authority, certificate

from holdfast.tls import TlsSocket, client_context

LARGE = b"v" * 3_000_000
Serve = Callable[[ssl.SSLSocket], None]


class Server:
    """Accepts TLS connections, which must present a certificate, and does with each what it is told to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ca = authority(root, "ca")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*certificate(root, self.ca, "server", "IP:127.0.0.1"))
        self.context.load_verify_locations(f"{self.ca}.crt")
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.client = certificate(root, self.ca, "client", "IP:127.0.0.1")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.threads: list[threading.Thread] = []

    def connect(self, serve: Serve, host: str = "127.0.0.1", ca: Path | None = None) -> TlsSocket:
        def accept() -> None:
            accepted, _addr = self.listener.accept()
            try:
                serve(self.context.wrap_socket(accepted, server_side=True))
            except OSError:
                accepted.close()  # the test is about what the client sees

        self.threads.append(threading.Thread(target=accept, daemon=True))
        self.threads[-1].start()
        cert, key = self.client
        plain = socket.create_connection(self.listener.getsockname(), timeout=5)
        return TlsSocket(plain, client_context(f"{ca or self.ca}.crt", str(cert), str(key)), host)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.listener.close()
    for thread in made.threads:
        thread.join(timeout=5)


def echo(connection: ssl.SSLSocket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def all_of(client: TlsSocket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = client.recv(size - len(received))
        assert part
        received += part
    return received


def reset(connection: ssl.SSLSocket) -> None:
    """Answers once, then breaks the connection as a killed host's kernel does."""
    connection.sendall(connection.recv(100))
    connection.recv(100)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_values_larger_than_a_record_and_than_a_buffer(server: Server) -> None:
    client = server.connect(echo)
    client.sendall(LARGE[:200_000])
    assert all_of(client, 200_000) == LARGE[:200_000]
    client.close()


def test_a_slow_reader_gets_all_of_a_large_value(server: Server) -> None:
    got: list[int] = []

    def count(connection: ssl.SSLSocket) -> None:
        while data := connection.recv(65536):
            got.append(len(data))

    client = server.connect(count)
    client.sendall(LARGE)
    client.shutdown(socket.SHUT_WR)
    server.threads[-1].join(timeout=10)
    assert sum(got) == len(LARGE)


@pytest.mark.parametrize("announced", [True, False])
def test_the_end_reads_as_no_bytes(server: Server, announced: bool) -> None:
    def end(connection: ssl.SSLSocket) -> None:
        if announced:
            connection.settimeout(1)
            connection.unwrap()
        connection.close()

    client = server.connect(end)
    assert client.recv(10) == b""
    client.close()


def test_silence_is_a_timeout(server: Server) -> None:
    client = server.connect(echo)
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.recv(10)
    client.settimeout(5)
    client.sendall(b"still there")
    assert all_of(client, 11) == b"still there"
    client.close()


def test_one_broken_connection_leaves_the_others_of_its_thread_alone(server: Server) -> None:
    sound, broken = server.connect(echo), server.connect(reset)
    broken.sendall(b"x")
    assert broken.recv(10) == b"x"
    for _ in range(20):
        try:
            broken.sendall(b"x")
            if broken.recv(10) == b"":
                break
        except OSError:
            break
    for attempt in range(3):  # a read that has to wait is where a note of the other's error would show
        sound.sendall(b"%d" % attempt)
        assert all_of(sound, 1) == b"%d" % attempt
    broken.close()
    sound.close()


def test_only_our_authority_and_the_right_name_are_accepted(server: Server) -> None:
    other = authority(server.root, "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        server.connect(echo, ca=other)
    with pytest.raises(ssl.SSLCertVerificationError):
        server.connect(echo, host="127.0.0.2")


def test_garbage_instead_of_tls_is_an_error(server: Server) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def garbage() -> None:
        accepted, _addr = listener.accept()
        accepted.recv(10)
        accepted.sendall(b"-ERR not TLS\r\n" * 10)
        accepted.close()

    thread = threading.Thread(target=garbage, daemon=True)
    thread.start()
    cert, key = server.client
    plain = socket.create_connection(listener.getsockname(), timeout=5)
    with pytest.raises(ssl.SSLError):
        TlsSocket(plain, client_context(f"{server.ca}.crt", str(cert), str(key)), "127.0.0.1")
    plain.close()
    thread.join(timeout=5)
    listener.close()
