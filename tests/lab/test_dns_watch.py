"""The name servers' watch: when it calls an edge dead, against TLS servers of a few lines."""

import asyncio
import importlib.machinery
import importlib.util
import ssl
import subprocess
from pathlib import Path

import pytest

FILE = str(Path(__file__).parents[2] / "roles/dns_failover/files/dns-failover-watch")
SPEC = importlib.util.spec_from_loader("watch", importlib.machinery.SourceFileLoader("watch", FILE))
assert SPEC
assert SPEC.loader
MODULE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)


def verdicts(checks: str) -> str:
    """For each check (1 alive, 0 not, s not but stalled) the verdict after it."""
    judge, seen = MODULE.Judge(), ""
    for check in checks:
        judge.add(check == "1", check == "s")
        seen += {None: "?", True: "U", False: "D"}[judge.up]
    return seen


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ("1", "U"),
        ("0", "D"),
        ("1010101", "UUUUUUU"),  # one that fails is nothing
        ("1100", "UUUD"),
        ("0011", "DDDU"),
        ("00101", "DDDDD"),
        ("11sss11", "UUUUUUU"),  # its own standstill says nothing of the edge
        ("1sssss", "UUUUUD"),  # but not for ever
        ("sss0", "???D"),
    ],
)
def test_two_checks_in_a_row_decide(checks, expected):
    assert verdicts(checks) == expected


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("pki") / "edge.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=edge",
         "-addext", "subjectAltName=DNS:edge", "-keyout", place, "-out", f"{place}.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    with place.open("a") as out:
        out.write(Path(f"{place}.crt").read_text())
    return place


class Edge:
    """Answers every request with ``answer``; None: never."""

    def __init__(self) -> None:
        self.answer: bytes | None = self.of("a")
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []

    @staticmethod
    def of(zone: str, status: str = "200 OK", more: str = "") -> bytes:
        body = f'{{"zone": "{zone}"}}'
        return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n{body}".encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if self.answer is not None:
                    writer.write(self.answer)
        except (asyncio.IncompleteReadError, OSError):
            writer.close()


def with_edge(certificate: Path, scenario, host: str = "edge", trusted: bool = True, seconds: float = 30) -> None:
    """``seconds``: how long an answer is waited for."""

    async def run() -> None:
        edge = Edge()
        served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        served.load_cert_chain(certificate)
        server = await asyncio.start_server(edge.serve, "127.0.0.1", 0, ssl=served)
        tls = ssl.create_default_context(cafile=f"{certificate}.crt" if trusted else None)
        port = server.sockets[0].getsockname()[1]
        target = MODULE.Target({"address": "127.0.0.1", "zone": "a", "host": host}, port, seconds, tls)
        await scenario(edge, target, server)
        target.close()
        server.close()

    asyncio.run(run())


def test_an_edge_is_alive_while_its_own_zone_answers_200(certificate):
    async def scenario(edge, target, _server):
        assert await target.check() == ""
        edge.answer = edge.of("b")
        assert "zone b answered" in await target.check()
        edge.answer = edge.of("a", "503 Service Unavailable")
        assert "503" in await target.check()
        edge.answer = edge.of("a")
        assert await target.check() == ""

    with_edge(certificate, scenario)


def test_connections_are_kept_and_renewed(certificate):
    async def scenario(edge, target, _server):
        for _ in range(MODULE.CHECKS_PER_CONNECTION):
            assert await target.check() == ""
        assert edge.connections == 1
        assert await target.check() == ""
        assert edge.connections == 2
        # A connection that the edge closed meanwhile is no failure.
        edge.writers[-1].transport.abort()
        assert await target.check() == ""
        assert edge.connections == 3
        edge.answer = edge.of("a", more="Connection: close\r\n")
        assert await target.check() == ""
        assert await target.check() == ""
        assert edge.connections == 4

    with_edge(certificate, scenario)


@pytest.mark.parametrize(
    "answer", [None, b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"x" * 70000]
)
def test_no_answer_and_rubbish_are_not_alive(certificate, answer):
    async def scenario(edge, target, _server):
        edge.answer = answer
        assert await target.check() != ""
        edge.answer = edge.of("a")
        target._timeout = 30
        assert await target.check() == "", "and it is seen when it is well again"

    with_edge(certificate, scenario, seconds=30 if answer else 0.5)


def test_an_edge_that_is_gone_is_not_alive(certificate):
    async def scenario(edge, target, server):
        assert await target.check() == ""
        server.close()
        for writer in edge.writers:
            writer.transport.abort()
        assert "refused" in (await target.check()).lower() or "connect" in (await target.check()).lower()

    with_edge(certificate, scenario)


@pytest.mark.parametrize(("host", "trusted"), [("other", True), ("edge", False)])
def test_a_certificate_that_does_not_hold_is_not_alive(certificate, host, trusted):
    async def scenario(_edge, target, _server):
        assert "certificate" in (await target.check()).lower()

    with_edge(certificate, scenario, host, trusted)
