"""The edges, from where clients are."""

import socket
import ssl
import time
import uuid

import pytest
import requests


def until(seconds: float, ask, good):
    """Ask until the answer is good; returns the last answer."""
    end = time.monotonic() + seconds
    while True:
        answer = ask()
        if good(answer) or time.monotonic() > end:
            return answer
        time.sleep(0.1)


def test_every_zone_is_ready(lab, edge, mode):
    answer = until(30, lambda: lab.client(None).get(f"{edge[mode]}/health", timeout=5), lambda a: a.status_code == 200)
    assert answer.status_code == 200, answer.text


def test_write_in_one_zone_is_read_in_all(lab, edge, mode):
    key, value = f"test/{uuid.uuid4()}", str(uuid.uuid4())
    path = requests.utils.quote(key, safe="")
    written = lab.client().post(f"{edge[mode]}/write/{path}", data=value, timeout=5)
    assert written.status_code == 200, written.text
    assert written.json()["status"] == "SUCCESS" and written.json()["mode"] == mode and written.json()["key"] == key
    assert len(written.json()["acks"]) >= (2 if mode == "cp" else 1)
    for other in lab.edges:
        ask = lambda other=other: lab.client("read").get(f"{other[mode]}/read/{path}", timeout=5)  # noqa: E731
        answer = ask() if mode == "cp" else until(10, ask, lambda a: a.status_code == 200)
        assert answer.status_code == 200 and answer.json()["value"] == value, answer.text


def test_deleted_key_is_gone_in_all_zones(lab, edge, mode):
    key = f"test-{uuid.uuid4()}"
    assert lab.client().post(f"{edge[mode]}/write/{key}/x", timeout=5).status_code == 200
    assert lab.client().delete(f"{edge[mode]}/write/{key}", timeout=5).status_code == 200
    for other in lab.edges:
        ask = lambda other=other: lab.client("read").get(f"{other[mode]}/read/{key}", timeout=5)  # noqa: E731
        answer = ask() if mode == "cp" else until(10, ask, lambda a: a.status_code == 404)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "not_found"


def test_replicas_share_the_load_and_the_cookie_holds_a_client(lab, edge, mode):
    seen = set()
    for _ in range(20):
        seen.add(lab.client("read").get(f"{edge[mode]}/read/nothing-{uuid.uuid4()}", timeout=5).cookies["HOLDFAST_REPLICA"])
    assert len(seen) == 2
    client = lab.client("read")
    first = client.get(f"{edge[mode]}/read/nothing", timeout=5)
    assert first.cookies["HOLDFAST_REPLICA"]
    assert all("Set-Cookie" not in client.get(f"{edge[mode]}/read/nothing", timeout=5).headers for _ in range(5))


@pytest.mark.parametrize("path", ["/metrics", "/circuit-breaker", "/%6detrics", "//metrics", "/./metrics", "/write/../metrics"])
def test_inner_pages_are_closed(lab, edge, mode, path):
    """Sent as raw bytes: a client library would tidy the path up."""
    host, port = edge[mode].removeprefix("https://").split(":")
    with lab.tls_context().wrap_socket(socket.create_connection((host, int(port)), timeout=5), server_hostname=host) as link:
        link.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {lab.token('admin')}\r\n\r\n".encode())
        answer = b""
        while chunk := link.recv(65536):
            answer += chunk
    assert answer.split()[1] in (b"404", b"400", b"405"), answer[:200]
    assert b"app_requests_total" not in answer and b'"nodes"' not in answer


@pytest.mark.parametrize(
    ("role", "method", "status", "code"),
    [(None, "get", 401, "unauthorized"), (None, "post", 401, "unauthorized"), ("read", "post", 403, "forbidden")],
)
def test_tokens_decide(lab, edge, mode, role, method, status, code):
    verb = "write" if method == "post" else "read"
    answer = lab.client(role).request(method, f"{edge[mode]}/{verb}/key", data="x" if method == "post" else None, timeout=5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_certificate_is_the_labs_and_nothing_old_is_spoken(lab, edge, mode):
    host, port = edge[mode].removeprefix("https://").split(":")
    with pytest.raises(ssl.SSLCertVerificationError):
        stranger = ssl.create_default_context()
        stranger.wrap_socket(socket.create_connection((host, int(port)), timeout=5), server_hostname=host)
    old = lab.tls_context()
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        old.wrap_socket(socket.create_connection((host, int(port)), timeout=5), server_hostname=host)


def test_replica_is_found_again_after_it_was_made_anew(lab, mode):
    """A container made anew has another address; until it is ready the other replica answers."""
    edge, host = lab.edges[0], lab.host(lab.serving[0])
    gone = f"app_{mode}_1"
    host.check_output(f"cd /opt/holdfast && docker compose up -d --no-deps --force-recreate --pull never {gone} >/dev/null 2>&1 &")
    failed, seen, end = [], set(), time.monotonic() + 45
    while time.monotonic() < end and (len(seen) < 2 or time.monotonic() < end - 25):
        answer = lab.client("read").get(f"{edge[mode]}/read/nothing-{uuid.uuid4()}", timeout=5)
        if answer.status_code != 404:
            failed.append(answer.text)
        if time.monotonic() > end - 30:
            seen.add(answer.cookies.get("HOLDFAST_REPLICA"))
        time.sleep(0.1)
    assert not failed
    assert len(seen) == 2
