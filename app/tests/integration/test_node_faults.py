"""One node after the other goes wrong in each way a real Redis can, under a client that writes all the time.

For each: all requests are answered as the contract says, the breaker names the class of the failure, and when the cause
is gone the node takes part again, the service not restarted. Two nodes wrong at once: refusals, never a false 200.
"""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from cluster import PASSWORD, App, Cluster, Node, wait_for
from lag_proxy import Proxies

Change = Callable[[Node], None]
#: Seconds for a node's answer. Who waited for the node that is wrong would wait so long; a busy machine takes less.
PATIENT, AT_ONCE = 4, 2.0


class Load:
    """One client that writes keys of its own, one after the other, and remembers what it was told."""

    def __init__(self, app: App, size: int = 0) -> None:
        self._app, self._size = app, size
        self.codes: Counter[str] = Counter()
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self.slowest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            key = f"load{number}"
            reply = self._app.write(key, key.ljust(self._size, "."))
            self.codes["ok" if reply.status == 200 else str(reply.code)] += 1
            self.slowest = max(self.slowest, reply.seconds)
            if reply.status == 200:
                self.acknowledged.append(key)
            elif reply.code == "no_quorum":
                self.refused.append(key)
            time.sleep(0.005)

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def check(self) -> None:
        """Nothing acknowledged is lost, nothing refused is there."""
        for key in self.acknowledged:
            assert self._app.read(key).json["value"].rstrip(".") == key
        for key in self.refused:
            assert self._app.read(key).status == 404


def breaker(app: App, node: str) -> dict[str, str]:
    return dict(app.request("GET", "/circuit-breaker", token=None).json["nodes"][node])


def opened(app: App, node: str, reasons: set[str]) -> None:
    def seen() -> bool:
        shown = breaker(app, node)
        return shown["state"] != "CLOSED" and shown["last_failure"] in reasons

    try:
        wait_for(f"the breaker of {node} is open for {reasons}", seen)
    except AssertionError:
        raise AssertionError(f"wanted {reasons}: {breaker(app, node)}") from None
    assert app.metric(f'circuit_breaker_state{{node="{node}"}}') >= 1


def takes_part_again(cluster: Cluster, app: App, node: str) -> None:
    """Its breaker is closed, and with another node paused a write is acknowledged by it."""
    wait_for(f"{node} is back", lambda: breaker(app, node)["state"] == "CLOSED")
    other = next(n for n in cluster.nodes if n != node)
    cluster.nodes[other].signal(signal.SIGSTOP)
    try:
        acks = wait_for("a write without the other node", lambda: app.write("back", "v").json.get("acks"))
        assert node in acks
    finally:
        cluster.nodes[other].signal(signal.SIGCONT)


def snapshots_fail(node: Node) -> None:
    """The rename of the new dump onto a directory fails: Redis then refuses writes with MISCONF."""
    (node.directory / "data" / "dump.rdb").mkdir()
    node.client().config_set("save", "3600 1")
    node.client().bgsave()
    wait_for("a failed snapshot", lambda: node.client().info("persistence")["rdb_last_bgsave_status"] == "err")


def snapshots_work(node: Node) -> None:
    (node.directory / "data" / "dump.rdb").rmdir()
    node.client().bgsave()
    wait_for("a snapshot", lambda: node.client().info("persistence")["rdb_last_bgsave_status"] == "ok")


def other_password(node: Node) -> None:
    """Changed while connections are open; those are closed, as a restart of the node would."""
    node.client().execute_command("ACL", "SETUSER", "service", "resetpass", ">quite-another-password")
    node.client().execute_command("CLIENT", "KILL", "USER", "service")


def right_password(node: Node) -> None:
    node.client().execute_command("ACL", "SETUSER", "service", "resetpass", f">{PASSWORD}")


def fewer_rights(node: Node) -> None:
    node.client().execute_command("ACL", "SETUSER", "service", "-evalsha")


def all_rights(node: Node) -> None:
    node.client().execute_command("ACL", "SETUSER", "service", "+evalsha")


def killed(node: Node) -> None:
    node.kill()


def started(node: Node) -> None:
    node.start()


FAULTS: dict[str, tuple[Change, Change, set[str]]] = {
    "kill -9": (killed, started, {"connect", "reset"}),
    "SIGSTOP": (lambda n: n.signal(signal.SIGSTOP), lambda n: n.signal(signal.SIGCONT), {"timeout"}),
    "MISCONF": (snapshots_fail, snapshots_work, {"misconf"}),
    "wrong password": (other_password, right_password, {"auth"}),
    "NOPERM": (fewer_rights, all_rights, {"noperm"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_node_wrong_costs_nothing_and_two_are_refused(cluster: Cluster, fault: str) -> None:
    begin, end, reasons = FAULTS[fault]
    app = cluster.run("serve", "cp", NETWORK_TIMEOUT_SEC=str(PATIENT))
    load = Load(app)
    wait_for("writes", lambda: load.codes["ok"] > 20)
    begin(cluster.nodes["db_g1"])
    opened(app, "db_g1", reasons)
    wait_for("writes go on", lambda before=load.codes["ok"]: load.codes["ok"] > before + 20)
    assert set(load.codes) == {"ok"}, "one node wrong must cost no request"
    assert load.slowest < AT_ONCE, "nor wait for it"
    begin(cluster.nodes["db_g2"])
    opened(app, "db_g2", reasons)
    wait_for("refusals", lambda: load.codes["no_quorum"] > 5)
    assert not app.ready()
    count = load.codes["ok"]
    assert app.write("false", "majority").code == "no_quorum"
    assert load.codes["ok"] == count, "no write is acknowledged without a majority"
    for name in ("db_g1", "db_g2"):
        end(cluster.nodes[name])
    wait_for("writes again", lambda: load.codes["ok"] > count + 20)
    takes_part_again(cluster, app, "db_g1")
    takes_part_again(cluster, app, "db_g2")
    load.stop()
    assert set(load.codes) <= {"ok", "no_quorum", "outcome_unknown"}
    load.check()
    changes = [e for e in app.entries() if e["event"] == "BREAKER_CHANGE" and e["stream"] == "audit"]
    assert {e["last_failure"] for e in changes if e["new"] == "OPEN"} & reasons


def test_oom(cluster: Cluster) -> None:
    """Queries are allowed and stores refused. Half of all calls fail at most, so the breaker may stay closed."""
    app = cluster.run("serve", "cp", NETWORK_TIMEOUT_SEC=str(PATIENT))
    load = Load(app)
    wait_for("writes", lambda: load.codes["ok"] > 20)
    cluster.nodes["db_g1"].client().config_set("maxmemory", 1)
    wait_for("noticed", lambda: breaker(app, "db_g1")["last_failure"] == "oom")
    wait_for("writes go on", lambda before=load.codes["ok"]: load.codes["ok"] > before + 20)
    assert set(load.codes) == {"ok"}
    cluster.nodes["db_g2"].client().config_set("maxmemory", 1)
    wait_for("no more writes", lambda: load.codes["no_quorum"] + load.codes["outcome_unknown"] > 5)
    count = load.codes["ok"]
    time.sleep(0.5)
    assert load.codes["ok"] == count
    assert load.codes["outcome_unknown"] > 0, "one node took the store: it may yet appear"
    for name in ("db_g1", "db_g2"):
        cluster.nodes[name].client().config_set("maxmemory", 0)
    wait_for("writes again", lambda: load.codes["ok"] > count + 20)
    takes_part_again(cluster, app, "db_g1")
    load.stop()
    load.check()


def test_loading(cluster: Cluster) -> None:
    """A node that reads a long append-only file back answers LOADING for seconds."""
    app, node = cluster.run("serve", "cp", NETWORK_TIMEOUT_SEC=str(PATIENT)), cluster.nodes["db_g1"]
    fill = "for i = 1, 100000 do redis.call('HSET', 'cp:old' .. i, 't', '', 'k', 'v', 'v', 'x') end"
    client = node.client()
    client.connection_pool.connection_kwargs["socket_timeout"] = 30
    client.eval(fill, 0)
    load = Load(app)
    wait_for("writes", lambda: load.codes["ok"] > 20)
    node.kill()
    opened(app, "db_g1", {"connect", "reset"})
    node.extra = ["key-load-delay 50"]  # microseconds for each key: a slow disk
    node.start(wait=False)
    opened(app, "db_g1", {"loading"})
    cluster.nodes["db_g2"].kill()
    wait_for("refused", lambda: load.codes["no_quorum"] > 3)
    assert breaker(app, "db_g1")["last_failure"] == "loading", "it was still loading: raise the delay"
    wait_for("the loaded node is enough", lambda before=load.codes["ok"]: load.codes["ok"] > before + 20)
    cluster.nodes["db_g2"].start()
    takes_part_again(cluster, app, "db_g1")
    load.stop()
    assert set(load.codes) <= {"ok", "no_quorum", "outcome_unknown"}
    load.check()


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    made = Proxies()
    yield made
    made.stop()


@pytest.mark.alone
def test_a_slow_node(cluster: Cluster, proxies: Proxies) -> None:
    paths = {name: proxies.path(node.port) for name, node in cluster.nodes.items()}
    nodes = ",".join(f"{n}=127.0.0.1:{p.port}" for n, p in paths.items())
    app = cluster.run("serve", "cp", NODES=nodes, NETWORK_TIMEOUT_SEC=str(PATIENT))
    load = Load(app)
    wait_for("writes", lambda: load.codes["ok"] > 20)
    paths["db_g1"].delay = 0.8
    wait_for("writes go on", lambda before=load.codes["ok"]: load.codes["ok"] > before + 100)
    assert breaker(app, "db_g1")["state"] == "CLOSED", "slow is not dead"
    assert load.slowest < 1.4, "the answer comes at the quorum"
    paths["db_g1"].delay = 6.0
    opened(app, "db_g1", {"timeout"})
    wait_for("writes go on", lambda before=load.codes["ok"]: load.codes["ok"] > before + 20)
    assert set(load.codes) == {"ok"}
    assert load.slowest < 1.4
    paths["db_g1"].delay = 0.0
    takes_part_again(cluster, app, "db_g1")
    load.stop()
    load.check()


def log_size(node: Node) -> int:
    return max(p.stat().st_size for p in (node.directory / "data" / "appendonlydir").glob("*.aof"))


def fill_disk(node: Node, left: int) -> None:
    """From ``left`` more bytes on no file of this process can grow, as on a full disk. Redis then ends itself."""
    assert node.process is not None
    limit = log_size(node) + left
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (limit, limit))


def ended(node: Node) -> bool:
    return node.process is not None and node.process.poll() is not None


def test_full_disks_lose_no_acknowledged_write(cluster: Cluster) -> None:
    app = cluster.run("serve", "cp", NETWORK_TIMEOUT_SEC=str(PATIENT))
    load = Load(app, size=2000)
    wait_for("writes", lambda: load.codes["ok"] > 20)
    fill_disk(cluster.nodes["db_g1"], 50_000)
    wait_for("db_g1 has ended", lambda: ended(cluster.nodes["db_g1"]))
    assert "AOF" in (cluster.nodes["db_g1"].directory / "redis.log").read_text().splitlines()[-1]
    opened(app, "db_g1", {"connect", "reset"})
    wait_for("writes go on", lambda before=load.codes["ok"]: load.codes["ok"] > before + 20)
    assert set(load.codes) == {"ok"}
    for number, name in enumerate(("db_g2", "db_g3")):
        fill_disk(cluster.nodes[name], 40_000 + 1500 * number)
    wait_for("refused", lambda: load.codes["no_quorum"] > 5)
    count = load.codes["ok"]
    wait_for("the last one has ended", lambda: ended(cluster.nodes["db_g2"]) or ended(cluster.nodes["db_g3"]))
    time.sleep(0.3)
    assert load.codes["ok"] == count
    for node in cluster.nodes.values():
        node.kill()
        node.start()  # with room again; what was half written at the end was cut off by Redis before it ended
    wait_for("writes again", lambda: load.codes["ok"] > count + 20)
    for name in cluster.nodes:
        takes_part_again(cluster, app, name)
    load.stop()
    assert set(load.codes) <= {"ok", "no_quorum", "outcome_unknown"}
    assert len(load.acknowledged) > 60
    load.check()


def test_a_truncated_log_keeps_the_node_down_and_the_service_up(cluster: Cluster) -> None:
    app, node = cluster.run("serve", "cp", NETWORK_TIMEOUT_SEC=str(PATIENT)), cluster.nodes["db_g1"]
    load = Load(app)
    wait_for("writes", lambda: load.codes["ok"] > 50)
    node.kill()
    log = max((node.directory / "data" / "appendonlydir").glob("*.incr.aof"))
    whole = log.read_bytes()
    log.write_bytes(whole[:-7])
    node.start(wait=False)
    assert node.process is not None
    assert node.process.wait(60) != 0, "a cut log must not load"
    opened(app, "db_g1", {"connect", "reset"})
    wait_for("writes go on", lambda before=load.codes["ok"]: load.codes["ok"] > before + 20)
    assert set(load.codes) == {"ok"}
    log.write_bytes(whole)
    node.start()
    takes_part_again(cluster, app, "db_g1")
    load.stop()
    load.check()


@pytest.mark.parametrize("fault", [*FAULTS, "OOM"])
def test_ap_uses_another_node_while_its_own_is_wrong(cluster: Cluster, fault: str) -> None:
    oom: tuple[Change, Change, set[str]] = (
        lambda n: n.client().config_set("maxmemory", 1),
        lambda n: n.client().config_set("maxmemory", 0),
        {"oom"},
    )
    begin, end, reasons = oom if fault == "OOM" else FAULTS[fault]
    app = cluster.run("serve", "ap", NETWORK_TIMEOUT_SEC="2")
    assert app.write("k", "here").json["acks"] == ["db_g1"]
    begin(cluster.nodes["db_g1"])
    acks: Counter[str] = Counter()
    for number in range(30):
        reply = app.write("k", str(number))
        acks[",".join(reply.json["acks"]) if reply.status == 200 else str(reply.code)] += 1
    wait_for("the class of the failure", lambda: breaker(app, "db_g1")["last_failure"] in reasons)
    allowed = {"db_g2", "db_g3", "outcome_unknown"} if fault in ("kill -9", "SIGSTOP") else {"db_g2", "db_g3"}
    assert set(acks) <= allowed
    assert acks["db_g2"] + acks["db_g3"] >= 20
    assert app.ready()
    end(cluster.nodes["db_g1"])
    wait_for("its own node again", lambda: app.write("k", "home").json.get("acks") == ["db_g1"])


def test_negative_control_a_service_that_lies_about_a_majority_is_caught(cluster: Cluster) -> None:
    """What `Load.check` is worth: a node that gives up acknowledged data behind the service's back is noticed."""
    app = cluster.run("serve", "cp", NETWORK_TIMEOUT_SEC=str(PATIENT))
    load = Load(app)
    wait_for("writes", lambda: load.codes["ok"] > 20)
    load.stop()
    for node in cluster.nodes.values():
        node.client().delete("cp:load7")
    with pytest.raises((AssertionError, KeyError)):
        load.check()
