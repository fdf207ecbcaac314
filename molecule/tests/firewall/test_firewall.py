"""The host firewall from the network's side: each rule is tried by somebody who is let in and by somebody who is not."""

import concurrent.futures
import itertools
import socket
import ssl
import subprocess
import time

import pytest
from clients import Client, Disks, play, wait_until_ready

HOSTS = "playbooks/hosts.yml"
#: What listens anywhere in the lab, and where.
EDGE, NODE, REGISTRY, NAMES, INSIDE = (5001, 5002), (6379, 6380, 6381), 5000, 53, (8000, 8404)
PORTS = (22, NAMES, REGISTRY, *EDGE, *NODE, *INSIDE)
NAME_SERVERS = {"lab-ops1", "lab-dr1"}
#: The standby region's one host has a node for each zone of the other.
NODES = {"lab-a1": {6379}, "lab-b1": {6379}, "lab-c1": {6379}, "lab-dr1": {6379, 6380, 6381}}


def connects(address: str, port: int, seconds: float = 2.0) -> bool:
    """From this machine, which is the lab's control machine."""
    try:
        with socket.create_connection((address, port), timeout=seconds):
            return True
    except OSError:
        return False


def connects_from(host, address: str, port: int, inside: str = "") -> bool:
    """From a host of the lab; ``inside`` goes before the command, such as `ip netns exec x`."""
    return host.run(f"{inside} timeout 2 bash -c '</dev/tcp/{address}/{port}'").rc == 0


def table(lab, name: str, table_name: str = "holdfast") -> str:
    return lab.host(name).run(f"nft list table inet {table_name}").stdout


def may_reach(source: str | None, target: str, port: int) -> bool:
    """What architecture and inventory promise; ``None`` is the control machine."""
    if port in NODE:
        return source in NODES and port in NODES.get(target, set())
    return {22: source is None, NAMES: target in NAME_SERVERS, REGISTRY: target not in NODES}.get(port, port in EDGE and target in NODES)


def seen_from(lab, source: str | None) -> set[tuple[str, int]]:
    """Every (host, port) that answers ``source``; all are tried at once."""
    tried = [(name, port) for name, port in itertools.product(lab.hosts, PORTS) if name != source]
    if source is None:
        with concurrent.futures.ThreadPoolExecutor(len(tried)) as pool:
            found = list(pool.map(lambda pair: connects(lab.hosts[pair[0]]["address"], pair[1], 4.0), tried))
        return {pair for pair, is_open in zip(tried, found, strict=True) if is_open}
    one = "(timeout 4 bash -c '</dev/tcp/{}/{}' 2>/dev/null && echo {} {}) &"
    script = " ".join(one.format(lab.hosts[name]["address"], port, name, port) for name, port in tried) + " wait"
    lines = lab.host(source).run(script).stdout.splitlines()
    return {(line.split()[0], int(line.split()[1])) for line in lines}


def test_who_reaches_what(lab):
    """From everybody, to everybody, on every port that something listens on: open is what must be, and nothing else."""
    for source in [None, *lab.hosts]:
        wanted = {(name, port) for name, port in itertools.product(lab.hosts, PORTS) if name != source and may_reach(source, name, port)}
        assert seen_from(lab, source) == wanted, f"from {source or 'the control machine'}"


def test_the_look_at_who_reaches_what_notices_an_opening_too_many(lab):
    zone = lab.serving[0]
    lab.host(zone).check_output("nft insert rule inet holdfast arriving tcp dport 6379 accept")
    try:
        assert (zone, 6379) in seen_from(lab, "lab-ops1") and (zone, 6379) in seen_from(lab, None)
    finally:
        lab.host(zone).check_output("systemctl restart holdfast-firewall")


@pytest.fixture
def attacker(lab):
    """A neighbour on the same network with routes of its own choice: a name space beside the standby host."""
    host, inside = lab.host("lab-dr1"), "ip netns exec attacker"
    victim = lab.hosts[lab.serving[0]]["address"]
    free = victim.rsplit(".", 1)[0] + ".200"
    for command in (
        "ip netns add attacker",
        "ip link add attacker0 link eth0 type macvlan mode bridge",
        "ip link set attacker0 netns attacker",
        f"{inside} ip address add {free}/24 dev attacker0",
        f"{inside} ip link set attacker0 up",
        f"{inside} sysctl -q net.ipv4.conf.all.route_localnet=1",
        f"{inside} ip route add 127.0.0.1/32 via {victim}",
        f"{inside} ip route add 172.16.0.0/14 via {victim}",
    ):
        host.check_output(command)
    yield lambda address, port: connects_from(host, address, port, inside)
    host.check_output("ip netns delete attacker")


def test_containers_and_loopback_are_closed_to_neighbours(lab, attacker):
    """Docker lets a neighbour in that routes to a container's address, or to 127.0.0.1 for what is published there.

    The control: without the rules both succeed, or this test would show nothing.
    """
    name = lab.serving[0]
    host = lab.host(name)
    inner = host.check_output("docker inspect app_cp_1 -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'")
    image = host.check_output("docker inspect app_cp_1 -f '{{.Config.Image}}'")
    host.check_output(f"docker run -d --rm --name loopback -p 127.0.0.1:18080:8000 --entrypoint python3 {image} -m http.server 8000")
    try:
        targets = [(inner, 8000), ("127.0.0.1", 18080)]
        end = time.monotonic() + 20
        while not all(connects_from(host, *target) for target in targets):
            assert time.monotonic() < end, "the host itself does not reach its containers"
        assert attacker(lab.hosts[name]["address"], 5001), "the attacker is not on the network at all"
        assert [attacker(*target) for target in targets] == [False, False]
        host.check_output("nft delete table inet holdfast")
        assert [attacker(*target) for target in targets] == [True, True]
    finally:
        host.check_output("systemctl restart holdfast-firewall")
        host.check_output("docker stop -t 1 loopback")
    assert [attacker(*target) for target in targets] == [False, False]


def test_dockers_rules_are_left_alone_and_the_rules_come_before_docker(lab, host_name):
    host = lab.host(host_name)
    assert "chain DOCKER" in host.check_output("nft list ruleset")
    assert not host.service("nftables").is_enabled
    assert host.service("holdfast-firewall").is_enabled
    assert "docker.service" in host.check_output("systemctl show -p Before holdfast-firewall")
    assert "policy drop" in table(lab, host_name)


def test_changing_the_rules_under_load_fails_no_request(lab):
    """A round in which a node's disk stood still says nothing about the rules, and is made again."""
    disks = Disks(lab)
    for _ in range(3):
        disks.watch()
        failed = change_the_rules_under_load(lab)
        stalls = disks.stalls() if failed else {}
        if not failed or not stalls:
            break
        print(f"made again, for a disk stood still: {stalls}; {failed}")
    assert not failed


def change_the_rules_under_load(lab) -> list[str]:
    """There and back again by the playbook; the requests that failed meanwhile."""
    wait_until_ready(lab)
    clients = [Client(lab, edge, mode) for edge in lab.edges for mode in ("cp", "ap")]
    for client in clients:
        client.start()
    more = [{"name": "more", "ports": [8999], "from": ["192.0.2.0/24"]}]
    zones = [h["address"] for h in lab.hosts.values() if h["region"] == "east"]
    base = [{"name": "edge", "ports": [5001, 5002], "from": ["any"]}, {"name": "node", "ports": [6379], "from": [*zones, "containers"]}]
    try:
        done = play(HOSTS, "--tags", "firewall", "--limit", "serving", variables={"firewall_openings": base + more})
        assert done.returncode == 0, done.stdout[-3000:]
        assert all("8999" in table(lab, name) for name in lab.serving)
    finally:
        back = play(HOSTS, "--tags", "firewall", "--limit", "serving")
        for client in clients:
            client.over.set()
            client.join(timeout=30)
    assert back.returncode == 0, back.stdout[-3000:]
    assert all("8999" not in table(lab, name) for name in lab.serving)
    assert all(client.done > 50 for client in clients), "the clients did not get through enough requests"
    return [failure for client in clients for failure in client.failed]


def test_a_lock_out_takes_itself_back(lab):
    """Rules that would close SSH for the control machine: the run says so, and the host opens again by itself."""
    name = "lab-dr1"
    address = lab.hosts[name]["address"]
    before = table(lab, name)
    started = time.monotonic()
    wrong = {"firewall_admin_networks": ["203.0.113.7"], "firewall_revert_seconds": 25}
    done = play(HOSTS, "--tags", "firewall", "--limit", name, variables=wrong)
    assert done.returncode != 0
    assert "take themselves back" in done.stdout and "firewall_admin_networks" in done.stdout, done.stdout[-3000:]
    assert not connects(address, 22), "the host was not locked out, so this test shows nothing"
    while not connects(address, 22):
        assert time.monotonic() < started + 120, "the host is still locked out"
        time.sleep(1)
    assert "203.0.113.7" not in table(lab, name) and table(lab, name).split("{")[1][:80] == before.split("{")[1][:80]
    lab.host(name).check_output("systemctl restart holdfast-firewall")
    assert connects(address, 22), "the next boot would have locked out"
    again = play(HOSTS, "--tags", "firewall", "--limit", name)
    assert again.returncode == 0, again.stdout[-3000:]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"firewall_openings": [{"name": "wrong", "ports": [70000], "from": ["any"]}]}, "firewall_openings: wrong has no ports"),
        ({"firewall_openings": [{"name": "wrong", "ports": [80], "from": ["10.0.0.300"]}]}, "'10.0.0.300'"),
        (
            {"firewall_openings": [{"name": "wrong", "ports": [80], "from": []}]},
            "firewall_openings: wrong has no ports from 1 to 65535, or is open from nowhere",
        ),
        ({"firewall_admin_networks": []}, "firewall_admin_networks is empty"),
    ],
)
def test_wrong_openings_are_refused_before_anything_changes(lab, variables, said):
    before = table(lab, "lab-dr1").split("counter")[0]
    done = play("playbooks/site.yml", "--limit", "lab-dr1", variables=variables)
    assert done.returncode == 2 and said in done.stdout, done.stdout[-3000:]
    assert "changed=0" in done.stdout
    assert table(lab, "lab-dr1").split("counter")[0] == before


def test_isolation_cuts_at_once_and_holds_until_rejoin(lab):
    name = lab.serving[-1]
    address = lab.hosts[name]["address"]
    here = "molecule/tests/firewall/isolation.yml"
    link = lab.tls_context().wrap_socket(socket.create_connection((address, 5001), timeout=3), server_hostname=address)
    request = f"GET /health HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()

    def answered() -> bool:
        try:
            link.sendall(request)
            return b" 200 " in link.recv(65536)
        except (OSError, ssl.SSLError):
            return False

    assert answered(), "the connection did not work to begin with"
    try:
        done = play(here, "--limit", name, "-e", "verb=isolate")
        assert done.returncode == 0, done.stdout[-3000:]
        assert not answered(), "an established connection goes on"
        assert not connects(address, 5001) and connects(address, 22)
        assert not connects_from(lab.host(name), lab.hosts["lab-ops1"]["address"], 5000), "the host still reaches out"
        subprocess.run(["docker", "restart", name], check=True, capture_output=True)
        end = time.monotonic() + 60
        while not connects(address, 22):
            assert time.monotonic() < end, "SSH is not back after a reboot"
        assert not connects(address, 5001), "a reboot ends the isolation"
    finally:
        back = play(here, "--limit", name, "-e", "verb=rejoin")
    assert back.returncode == 0, back.stdout[-3000:]
    link.close()
    wait_until_ready(lab)
    assert "No such file" in lab.host(name).run("nft list table inet holdfast_isolation").stderr
