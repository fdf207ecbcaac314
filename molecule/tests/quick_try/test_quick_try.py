"""The quick try, asked on its own machine as a user would with curl: it is published on the loopback address only."""

import json
import time

import pytest

PORTS = {"cp": 5001, "ap": 5002}


@pytest.fixture(scope="module")
def ops(lab):
    return lab.host("lab-ops1")


def curl(ops, token: str, arguments: str) -> tuple[int, dict]:
    header = f"Authorization: Bearer $(sed -n 's/^{token}=//p' /srv/try/app/.env)"
    body, status = ops.check_output(f"curl -sS -m 10 -w '\\n%{{http_code}}' -H \"{header}\" {arguments}").rsplit("\n", 1)
    return int(status), json.loads(body)


def test_write_and_read(ops, mode):
    base = f"http://127.0.0.1:{PORTS[mode]}"
    status, answer = curl(ops, "WRITE_TOKEN", f"-d hello {base}/write/greeting")
    assert status == 200 and answer["mode"] == mode, answer
    status, answer = curl(ops, "READ_TOKEN", f"{base}/read/greeting")
    assert (status, answer["value"]) == (200, "hello"), answer
    status, answer = curl(ops, "READ_TOKEN", f"-d no {base}/write/greeting")
    assert (status, answer["error"]["code"]) == (403, "forbidden")


def test_metrics_as_the_guide_asks(ops, mode):
    assert "app_requests_total" in ops.check_output(f"curl -sS http://127.0.0.1:{PORTS[mode]}/metrics")


def test_published_on_loopback_only(ops):
    listening = ops.check_output("ss -Hltn")
    for port in PORTS.values():
        assert f"127.0.0.1:{port}" in listening and f"0.0.0.0:{port}" not in listening and f"*:{port}" not in listening


def test_cp_goes_on_without_one_node_and_refuses_without_two(ops):
    base = "http://127.0.0.1:5001"
    compose = "docker compose --project-directory /srv/try/app"
    try:
        ops.check_output(f"{compose} kill db_g2")
        status, answer = curl(ops, "WRITE_TOKEN", f"-d one {base}/write/loss")
        assert status == 200, answer
        ops.check_output(f"{compose} kill db_g3")
        status, answer = curl(ops, "WRITE_TOKEN", f"-d two {base}/write/loss")
        assert status == 503 and answer["error"]["code"] == "no_quorum", answer
    finally:
        ops.check_output(f"{compose} up -d --no-build --wait --wait-timeout 60")
    end = time.monotonic() + 60
    while (asked := curl(ops, "READ_TOKEN", f"{base}/read/loss"))[0] != 200:
        assert time.monotonic() < end, asked  # the breakers of the two let no call through for two seconds more
        time.sleep(0.5)
    assert asked[1]["value"] == "one", asked
