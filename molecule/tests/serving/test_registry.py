"""The registry, from a machine that may reach it: TLS of today, and a password."""

import socket
import ssl
import warnings

import pytest
import requests

OLD = {
    "TLS 1.0": (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1, "ALL:@SECLEVEL=0"),
    "TLS 1.1": (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
    "CBC ciphers": (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:AES128-SHA:@SECLEVEL=0"),
}


@pytest.fixture
def registry(lab) -> tuple[str, int]:
    return lab.hosts["lab-ops1"]["address"], 5000


def shake(registry, context: ssl.SSLContext) -> str:
    with socket.create_connection(registry, timeout=5) as plain, context.wrap_socket(plain, server_hostname=registry[0]) as secured:
        return str(secured.version())


def test_a_client_that_trusts_the_ca_gets_tls_1_2_and_1_3(lab, registry):
    context = lab.tls_context()
    assert shake(registry, context) == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake(registry, context) == "TLSv1.2"


def test_a_client_that_does_not_know_the_ca_goes_away(registry):
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(registry, ssl.create_default_context())


@pytest.mark.parametrize("kind", OLD)
def test_what_is_old_is_refused_by_the_registry(registry, kind):
    lowest, highest, ciphers = OLD[kind]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers(ciphers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context.minimum_version, context.maximum_version = lowest, highest
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        shake(registry, context)


def test_nobody_gets_anything_without_tls_or_a_password(lab, registry):
    address, port = registry
    assert requests.get(f"http://{address}:{port}/v2/", timeout=5).status_code == 400
    client = lab.client(None)
    assert client.get(f"https://{address}:{port}/v2/_catalog", timeout=5).status_code == 401
    assert client.get(f"https://{address}:{port}/v2/_catalog", auth=("holdfast", "wrong"), timeout=5).status_code == 401
