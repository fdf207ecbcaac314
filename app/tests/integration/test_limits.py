"""Rate limits across processes: counted region-wide, going on without nodes, not to be cheated, never in the way."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cluster import App, Cluster, wait_for

from holdfast.limit_counts import SYNC_SEC

#: Days, as no window of a day begins anew in the middle of a test; those of an hour do now and then.
LIMIT, PACE, REQUESTS = 60, 0.02, 150


def accepted(app: App) -> int:
    """Requests of one client, never closer to each other than PACE; how many were not refused by the limiter."""
    passed = 0
    for _ in range(REQUESTS):
        passed += app.request("GET", "/openapi.json", token="writer").status != 429
        time.sleep(PACE)
    return passed


def both(apps: list[App]) -> int:
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(accepted, apps))


def holders(cluster: Cluster) -> list[str]:
    return [n for n, node in cluster.nodes.items() if list(node.client().scan_iter("holdfast:limit:*"))]


def counted(cluster: Cluster) -> list[int]:
    """What the nodes hold of each counter."""
    found = []
    for node in cluster.nodes.values():
        client = node.client()
        found += [sum(map(int, client.hvals(key))) for key in client.scan_iter("holdfast:limit:*")]
    return sorted(found)


def refused_after(most: int, ask: Callable[[], int]) -> bool:
    """Ask, with time for an exchange before each: is the answer 429 after so many others at most?"""
    for _ in range(most + 1):
        time.sleep(5 * SYNC_SEC)
        if ask() == 429:
            return True
    return False


@pytest.mark.alone
def test_two_processes_share_one_limit_within_the_documented_overshoot(cluster: Cluster) -> None:
    apps = [cluster.run("serve", "cp", zone, RATE_LIMITS=f"{LIMIT} per day") for zone in ("db_g1", "db_g2")]
    passed = both(apps)
    answer_time = 0.15  # of a node on a noisy machine
    assert LIMIT <= passed <= LIMIT + 2 / PACE * (SYNC_SEC + answer_time)
    assert passed < 1.7 * LIMIT
    assert len(holders(cluster)) == 1, "a counter lives on one node"
    client = cluster.nodes[holders(cluster)[0]].client()
    key = next(client.scan_iter("holdfast:limit:*"))
    assert 0 < client.pttl(key) <= 86_410_000
    assert all(a.metric("rate_limiter_shared") == 1 for a in apps)


def test_control_without_nodes_each_process_grants_the_limit(cluster: Cluster) -> None:
    """The negative control of the test above, and the fallback: nobody shares, nobody is turned away wrongly."""
    apps = [cluster.run("serve", "cp", zone, RATE_LIMITS=f"{LIMIT} per day") for zone in ("db_g1", "db_g2")]
    for node in cluster.nodes.values():
        node.kill()
    wait_for("local", lambda: all(a.metric("rate_limiter_shared") == 0 for a in apps))
    assert both(apps) == 2 * LIMIT
    assert [e["event"] for e in apps[0].entries() if e["event"].startswith("LIMITER")] == ["LIMITER_LOCAL"]
    for node in cluster.nodes.values():
        node.start()
    wait_for("shared again", lambda: apps[0].metric("rate_limiter_shared") == 1)
    assert apps[0].request("GET", "/openapi.json", token="writer").status == 429
    assert [e["event"] for e in apps[0].entries() if e["event"].startswith("LIMITER")] == [
        "LIMITER_LOCAL",
        "LIMITER_SHARED",
    ]


def test_a_restart_forgets_nothing_and_a_lost_node_stops_nothing(cluster: Cluster) -> None:
    first, other = (cluster.run("serve", "cp", z, RATE_LIMITS="20 per day") for z in ("db_g1", "db_g2"))
    for _ in range(20):
        assert first.read("k", token="writer").status == 404
    wait_for("counted", lambda: counted(cluster) == [20])
    first.stop()
    again = cluster.run("serve", "cp", RATE_LIMITS="20 per day")
    for app in (again, other):  # that come to know of it with the first count of their own
        assert refused_after(9, lambda app=app: app.read("k", token="writer").status), "20 are what nobody remembers"
    lost = holders(cluster)[0]
    cluster.nodes[lost].kill()
    assert again.read("k", token="reader").status == 404
    assert again.read("k", token="writer").status == 429, "what is known stays known"
    wait_for("on another node", lambda: again.read("k", token="reader").status == 404 and holders_alive(cluster, lost))


def holders_alive(cluster: Cluster, lost: str) -> bool:
    return any(list(n.client().scan_iter("holdfast:limit:*")) for name, n in cluster.nodes.items() if name != lost)


def test_paused_nodes_do_not_hold_a_request_up(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp", RATE_LIMITS="1000 per day", NETWORK_TIMEOUT_SEC="5")
    for node in cluster.nodes.values():
        node.signal(signal.SIGSTOP)
    times = []
    for _ in range(40):
        reply = app.request("GET", "/openapi.json", token="writer")
        assert reply.status == 200
        times.append(reply.seconds)
        time.sleep(0.03)
    assert sorted(times)[len(times) // 2] < 0.1
    assert max(times) < 2.5, "less than half of the network timeout: nothing waited for a node"


def test_a_blank_node_stays_blank(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp", RATE_LIMITS="1000 per day")
    app.read("k", token="writer")
    name = wait_for("counted", lambda: holders(cluster))[0]
    client = cluster.nodes[name].client()
    client.flushall()
    for _ in range(20):
        assert app.read("k", token="writer").status == 404
        time.sleep(0.05)
    assert client.dbsize() == 0
    wait_for("counted elsewhere", lambda: holders(cluster))
    assert name not in holders(cluster)


def test_a_forged_forwarded_for_does_not_help(shared: Cluster) -> None:
    behind = shared.run("serve", "cp", RATE_LIMITS="5 per day")  # the test is the trusted edge in front
    direct = shared.run("serve", "ap", RATE_LIMITS="5 per day", TRUSTED_PROXY_COUNT="0")

    def statuses(app: App, form: str, count: int = 8) -> list[int]:
        headers = [{"X-Forwarded-For": form.format(i)} for i in range(count)]
        return [app.read("k", token=None, headers=h).status for h in headers]

    assert statuses(behind, "198.51.100.{}, 203.0.113.9") == [401] * 5 + [429] * 3
    assert statuses(behind, "203.0.113.{}") == [401] * 8, "what the edge itself saw counts"
    assert statuses(direct, "203.0.113.{}") == [401] * 5 + [429] * 3
    for path in ("/health", "/health/live", "/metrics", "/circuit-breaker"):
        for app in (behind, direct):
            assert [app.request("GET", path, token=None).status for _ in range(12)] == [200] * 12


def test_unlimited_for_everybody(shared: Cluster) -> None:
    app = shared.run("serve", "cp", RATE_LIMITS="unlimited")
    assert [app.read("k", token="writer").status for _ in range(150)] == [404] * 150
    assert [app.read("k", token="slow").status for _ in range(4)] == [404, 404, 404, 429], "a token's own limit holds"


def test_ipv6_clients_are_limited_by_their_network(shared: Cluster) -> None:
    app = shared.run("serve", "cp", RATE_LIMITS="5 per day")

    def statuses(form: str, path: str) -> list[int]:
        seen = [{"X-Forwarded-For": form.format(i)} for i in range(8)]
        return [app.request("GET", path, token=None, headers=h).status for h in seen]

    assert statuses("2001:db8:1:2::{}", "/read/k") == [401] * 5 + [429] * 3
    assert statuses("2001:db8:1:2:{}::", "/openapi.json") == [429] * 8, "whichever way a request takes"
    assert statuses("2001:db8:1:{}::", "/read/k") == [401, 401, 429, *[401] * 5], "other networks are other clients"


#: The server with room for few counters only.
_SMALL = """
import os
from holdfast import limit_counts, server, settings
limit_counts.MAX_KEPT = 20
server.run(settings.load(os.environ))
"""


def test_requests_from_many_addresses_reset_nobodys_limit(cluster: Cluster) -> None:
    app = cluster.run("serve", "ap", launch=("-c", _SMALL), RATE_LIMITS="5 per day")
    mine = {"X-Forwarded-For": "203.0.113.9"}

    def flood() -> None:
        for i in range(60):
            assert app.read("k", token=None, headers={"X-Forwarded-For": f"198.51.100.{i}"}).status == 401

    assert [app.read("k", token="writer").status for _ in range(6)] == [404] * 5 + [429]
    assert [app.read("k", token=None, headers=mine).status for _ in range(6)] == [401] * 5 + [429]
    wait_for("known to the nodes", lambda: counted(cluster) == [6, 6])
    flood()
    assert app.read("k", token="writer").status == 429
    assert refused_after(4, lambda: app.read("k", token=None, headers=mine).status), "what was dropped has come back"
