"""The public names, as a resolver anywhere would ask for them: over the network, UDP and TCP."""

import ipaddress
import json
import re
import socket
import struct
import subprocess
import time

import pytest
from clients import ROOT, USERS_ENVIRONMENT, wait_until_ready

DOMAIN = "holdfast.test"
SERVERS = ["lab-ops1", "lab-dr1"]
TYPES = {"A": 1, "NS": 2, "SOA": 6, "TXT": 16, "AAAA": 28}
REFUSED, NO_SUCH_NAME = 5, 3


def exchange(address: str, packet: bytes, tcp: bool) -> bytes:
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as link:
        link.settimeout(3)
        link.connect((address, 53))
        if not tcp:
            link.send(packet)
            return link.recv(4096)
        link.sendall(struct.pack(">H", len(packet)) + packet)
        length = struct.unpack(">H", link.recv(2, socket.MSG_WAITALL))[0]
        return link.recv(length, socket.MSG_WAITALL)


def ask(address: str, name: str, kind: str = "A", tcp: bool = False) -> tuple[int, set[str], int]:
    """(response code, answers: addresses, texts or raw data, the longest TTL)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack(">6H", 4711, 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", TYPES[kind], 1)
    packet = exchange(address, question, tcp)
    number, flags, _, answers = struct.unpack(">4H", packet[:8])
    assert number == 4711
    at, found, longest = len(question), set(), 0
    for _ in range(answers):
        assert packet[at] >= 0xC0
        this, _, ttl, length = struct.unpack(">2HIH", packet[at + 2 : at + 12])
        data = packet[at + 12 : at + 12 + length]
        at, longest = at + 12 + length, max(longest, ttl)
        if this == TYPES[kind]:
            readable = {"A": lambda d: str(ipaddress.ip_address(d)), "TXT": lambda d: d[1:].decode()}.get(kind, bytes.hex)
            found.add(readable(data))
    return flags & 15, found, longest


def until(seconds: float, look, good):
    """(last answer, seconds it took)."""
    started = time.monotonic()
    while True:
        seen = look()
        if good(seen) or time.monotonic() - started > seconds:
            return seen, time.monotonic() - started
        time.sleep(0.1)


def play(tmp_path, verb: str, host: str, **variables) -> subprocess.CompletedProcess[str]:
    """One entry point of the role on one name server, as a runbook would use it."""
    playbook = tmp_path / "verb.yml"
    task = {"ansible.builtin.import_role": {"name": "dns_failover", "tasks_from": verb}}
    show = {
        "ansible.builtin.debug": {"msg": "FACT {{ (__dns_failover_observed | default(__dns_failover_agreed | default({}))) | to_json }}"}
    }
    playbook.write_text(json.dumps([{"hosts": host, "gather_facts": False, "become": True, "tasks": [task, show]}]))
    command = [ROOT / ".venv/bin/ansible-playbook", playbook, "-i", "inventories/lab", "-e", json.dumps(variables)]
    environment = USERS_ENVIRONMENT | {"ANSIBLE_ROLES_PATH": str(ROOT / "roles")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture
def addresses(lab) -> dict[str, str]:
    return {name: host["address"] for name, host in lab.hosts.items()}


@pytest.fixture
def east(lab) -> set[str]:
    return {lab.hosts[name]["address"] for name in lab.serving}


@pytest.fixture(params=SERVERS)
def server(request, addresses, east) -> str:
    """The address of a name server that answers with all of the region's edges."""
    address = addresses[request.param]
    for face in ("cp", "ap"):
        seen, _ = until(60, lambda face=face: ask(address, f"{face}.{DOMAIN}")[1], lambda found: found == east)
        assert seen == east
    return address


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_both_names_are_the_active_regions_edges(server, east, mode, tcp):
    code, found, ttl = ask(server, f"{mode}.{DOMAIN}", tcp=tcp)
    assert (code, found) == (0, east)
    assert ttl <= 5


def test_region_and_epoch_can_be_asked_for(server):
    code, found, ttl = ask(server, f"epoch.{DOMAIN}", "TXT")
    assert code == 0
    assert len(found) == 1
    region, epoch = found.pop().split(" ")
    assert region == "east"
    assert int(epoch) >= 1
    assert ttl <= 5


def test_the_zone_names_both_servers_and_nothing_else_is_answered(server):
    assert len(ask(server, DOMAIN, "NS")[1]) == 2
    assert len(ask(server, DOMAIN, "SOA")[1]) == 1
    assert {next(iter(ask(server, f"ns{n}.{DOMAIN}")[1])) for n in (1, 2)} > {server}
    assert ask(server, f"nothing.{DOMAIN}")[0] == NO_SUCH_NAME
    assert ask(server, "example.org")[0] == REFUSED


@pytest.mark.parametrize("name", SERVERS)
def test_gdnsd_has_no_rights_and_no_port_but_53(lab, addresses, name):
    host = lab.host(name)
    assert host.check_output("ps -o user= -C gdnsd | sort -u") == "gdnsd"
    listening = host.check_output("ss -Hlntup | grep '\"gdnsd\"' | awk '{print $5}' | sort -u").split()
    assert listening == [f"{addresses[name]}:53"]
    # CAP_NET_BIND_SERVICE and nothing more.
    assert int(host.check_output("grep CapEff /proc/$(systemctl show -p MainPID --value gdnsd)/status | cut -f2"), 16) == 1 << 10


@pytest.fixture
def zone_a(lab):
    """Lets tests harm zone a, and waits until it is ready again."""
    host = lab.host("lab-a1")
    yield host
    host.run("docker start edge $(docker ps -aq --filter name=^app_)")
    wait_until_ready(lab)


def test_a_dead_edge_leaves_both_servers_within_ten_seconds_and_returns(lab, addresses, east, zone_a, server):
    dead = addresses["lab-a1"]
    zone_a.check_output("docker kill edge")
    killed = time.monotonic()
    for name in SERVERS:
        for face in ("cp", "ap"):
            seen, _ = until(15, lambda n=name, f=face: ask(addresses[n], f"{f}.{DOMAIN}")[1], lambda found: dead not in found)
            assert seen == east - {dead}
    took = time.monotonic() - killed
    print(f"out of all answers after {took:.1f} s")
    assert took < 10
    zone_a.check_output("docker start edge")
    started = time.monotonic()
    for face in ("cp", "ap"):
        seen, _ = until(60, lambda f=face: ask(server, f"{f}.{DOMAIN}")[1], lambda found: found == east)
        assert seen == east
    print(f"back after {time.monotonic() - started:.1f} s")


def test_a_zone_that_is_not_ready_leaves_though_its_edge_answers(lab, addresses, east, zone_a, server):
    """Its edge hands /health to another zone and says 200; only the CP face is harmed, so only that name changes."""
    harmed = addresses["lab-a1"]
    zone_a.check_output("docker stop --time 1 $(docker ps -q --filter name=^app_cp_)")
    seen, _ = until(15, lambda: ask(server, f"cp.{DOMAIN}")[1], lambda found: harmed not in found)
    assert seen == east - {harmed}
    edge = next(edge for edge in lab.edges if edge["zone"] == "a")
    assert lab.client(None).get(f"{edge['cp']}/health", timeout=5).status_code == 200, "the edge still answers, for another zone"
    assert ask(server, f"ap.{DOMAIN}")[1] == east


@pytest.fixture
def stopped_watch(lab):
    host = lab.host("lab-dr1")
    yield host
    host.run("systemctl start holdfast-dns-watch")


def test_with_every_edge_dead_all_are_answered(lab, addresses, east, stopped_watch):
    """The watch's file says so; the watch itself is stopped, so that no zone has to be killed for it."""
    host, server = stopped_watch, addresses["lab-dr1"]
    host.check_output("systemctl stop holdfast-dns-watch")
    write = "cd /run/holdfast-dns && cp -p cp .cp.new && sed -i '{}' .cp.new && mv .cp.new cp"
    host.check_output(write.format("s/UP/DOWN/; 1s/DOWN/UP/"))
    one, _ = until(10, lambda: ask(server, f"cp.{DOMAIN}")[1], lambda found: len(found) == 1)
    assert len(one) == 1
    host.check_output(write.format("s/UP/DOWN/"))
    everything, _ = until(10, lambda: ask(server, f"cp.{DOMAIN}")[1], lambda found: found == east)
    assert everything == east


@pytest.fixture
def moved(lab, addresses, tmp_path):
    """Lets a test move the names on the standby region's server. Afterwards both hold what they held before, the epoch too, which no entry
    point can lower: fail-overs tried later go on from the region's own. The one that was moved is first, or the other could not start."""
    before = {name: ask(addresses[name], f"epoch.{DOMAIN}", "TXT")[1].pop() for name in reversed(SERVERS)}
    yield addresses["lab-dr1"], int(before["lab-dr1"].split(" ")[1])
    for name, held in before.items():
        region, epoch = held.split(" ")
        state = json.dumps({"region": region, "epoch": int(epoch)})
        lab.host(name).check_output("echo %s > /etc/holdfast/dns_failover/state.json", state)
        done = play(tmp_path, "main", name)
        assert done.returncode == 0, done.stdout
        assert ask(addresses[name], f"epoch.{DOMAIN}", "TXT")[1] == {held}


def test_only_point_moves_the_names_and_an_old_epoch_is_refused(lab, addresses, moved, tmp_path):
    server, epoch = moved
    assert play(tmp_path, "verify", "lab-ops1").returncode == 0
    done = play(tmp_path, "point", "lab-dr1", dns_failover_region="west", dns_failover_epoch=epoch + 1)
    assert done.returncode == 0, done.stdout
    assert ask(server, f"cp.{DOMAIN}")[1] == {addresses["lab-dr1"]}
    assert ask(server, f"epoch.{DOMAIN}", "TXT")[1] == {f"west {epoch + 1}"}
    again = play(tmp_path, "point", "lab-dr1", dns_failover_region="west", dns_failover_epoch=epoch + 1)
    assert again.returncode == 0
    assert "changed=0" in again.stdout
    for region, tried in (("east", epoch), ("east", epoch + 1)):
        refused = play(tmp_path, "point", "lab-dr1", dns_failover_region=region, dns_failover_epoch=tried)
        assert refused.returncode == 2
        assert f"dns_failover_epoch {epoch + 2} or higher" in refused.stdout
    disagreeing = play(tmp_path, "verify", "lab-ops1")
    assert disagreeing.returncode == 2
    assert "disagree" in disagreeing.stdout
    assert ask(server, f"epoch.{DOMAIN}", "TXT")[1] == {f"west {epoch + 1}"}


def names(*options: str) -> str:
    """What playbooks/names.yml says."""
    command = [ROOT / ".venv/bin/ansible-playbook", "playbooks/names.yml", "-i", "inventories/lab", *options]
    done = subprocess.run(command, cwd=ROOT, env=USERS_ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_server_that_was_away_does_not_start_before_it_has_caught_up(lab, addresses, moved, tmp_path):
    """lab-ops1 is the one that was away while the names were moved on lab-dr1."""
    server, epoch = moved
    host, behind = lab.host("lab-ops1"), addresses["lab-ops1"]
    before = ask(behind, f"epoch.{DOMAIN}", "TXT")[1]
    done = play(tmp_path, "point", "lab-dr1", dns_failover_region="west", dns_failover_epoch=epoch + 1)
    assert done.returncode == 0, done.stdout
    said = names("--check")
    assert re.search(r"lab-ops1 .*changed=[1-9]", said), said
    assert re.search(r"lab-dr1 .*changed=0", said), said
    assert ask(behind, f"epoch.{DOMAIN}", "TXT")[1] == before
    assert host.run("systemctl restart gdnsd").rc != 0
    with pytest.raises(OSError, match=r".*"):
        ask(behind, f"epoch.{DOMAIN}", "TXT")
    assert "Run playbooks/names.yml" in host.check_output("journalctl -u gdnsd -n 20 --no-pager")
    names()
    for address in (behind, server):
        assert ask(address, f"epoch.{DOMAIN}", "TXT")[1] == {f"west {epoch + 1}"}
        assert ask(address, f"cp.{DOMAIN}")[1] == {server}
    host.check_output("systemctl restart gdnsd")


def test_two_regions_under_one_epoch_are_refused(addresses, tmp_path):
    known = [{"server": addresses[name], "region": region, "epoch": 1000} for name, region in zip(SERVERS, ("east", "west"), strict=True)]
    refused = play(tmp_path, "main", "lab-dr1", dns_failover_known=known)
    assert refused.returncode == 2
    assert "contradict each other under epoch 1000" in refused.stdout
    assert "1000" not in "".join(ask(addresses["lab-dr1"], f"epoch.{DOMAIN}", "TXT")[1])


def test_a_server_that_is_down_is_not_moved_and_is_seen_to_be_down(lab, addresses, tmp_path):
    host = lab.host("lab-dr1")
    before = ask(addresses["lab-dr1"], f"epoch.{DOMAIN}", "TXT")[1]
    host.check_output("systemctl stop gdnsd")
    try:
        failed = play(tmp_path, "point", "lab-dr1", dns_failover_region="west", dns_failover_epoch=1000)
        seen = play(tmp_path, "observe", "lab-dr1")
    finally:
        host.check_output("systemctl start gdnsd")
    assert failed.returncode == 2
    assert "gdnsd does not run" in failed.stdout
    assert seen.returncode == 0, seen.stdout
    fact = seen.stdout.replace("\\", "")
    assert '"answers": false' in fact
    assert '"epoch": -1' in fact
    assert ask(addresses["lab-dr1"], f"epoch.{DOMAIN}", "TXT")[1] == before


def test_what_gdnsd_refuses_leaves_the_old_answer(lab, addresses, tmp_path):
    before = ask(addresses["lab-dr1"], f"epoch.{DOMAIN}", "TXT")[1]
    failed = play(tmp_path, "point", "lab-dr1", dns_failover_region="west", dns_failover_epoch=1000, dns_failover_contact="a..b")
    assert failed.returncode == 2
    assert "gdnsd does not take the new files" in failed.stdout
    assert ask(addresses["lab-dr1"], f"epoch.{DOMAIN}", "TXT")[1] == before
    assert "1000" not in lab.host("lab-dr1").check_output("cat /etc/holdfast/dns_failover/state.json /etc/gdnsd/zones/*")
