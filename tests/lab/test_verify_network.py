"""The checklist's look at TLS notices a server that takes what is old: the control of what it says about edges and the registry."""

import importlib.util
import socket
import ssl
import sys
import threading
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "molecule/tests"))

from authority import Authority, pem  # noqa: E402

NAME = "edge.example.net"


def look():
    spec = importlib.util.spec_from_file_location("verify_network", ROOT / "roles/verify/library/verify_network.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def serve(tmp_path):
    """Serves TLS as told; returns what the look is given."""
    authority = Authority("Test root")
    certificate, key = authority.issue([NAME])
    (tmp_path / "ca.pem").write_text(pem(authority.certificate))
    (tmp_path / "server.pem").write_text(pem(certificate) + pem(key))
    listeners = []

    def start(lowest: ssl.TLSVersion, ciphers: str) -> dict[str, object]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.pem")
        context.set_ciphers(ciphers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            context.minimum_version = lowest
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def answer() -> None:
            while True:
                try:
                    link, _ = listener.accept()
                    context.wrap_socket(link, server_side=True).close()
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=answer, daemon=True).start()
        return {"address": "127.0.0.1", "ca_file": str(tmp_path / "ca.pem"), "server_name": NAME, "port": listener.getsockname()[1]}

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize(
    ("lowest", "ciphers", "accepted"),
    [
        (ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM", []),
        (ssl.TLSVersion.TLSv1, "ALL:@SECLEVEL=0", ["TLS 1.0", "TLS 1.1", "CBC ciphers"]),
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0", ["TLS 1.1", "CBC ciphers"]),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA:ECDHE+AESGCM", ["CBC ciphers"]),
    ],
)
def test_it_names_what_a_server_takes(serve, lowest, ciphers, accepted):
    given = serve(lowest, ciphers)
    passed, said = look().tls(given, [given["port"]])
    assert passed is not bool(accepted)
    assert [kind for kind in ("TLS 1.0", "TLS 1.1", "CBC ciphers") if f"takes {kind}" in said] == accepted, said


def test_a_server_with_a_foreign_certificate_is_an_error(serve, tmp_path):
    given = serve(ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM")
    (tmp_path / "ca.pem").write_text(pem(Authority("Test root").certificate))
    with pytest.raises(ssl.SSLError):
        look().tls(given, [given["port"]])
