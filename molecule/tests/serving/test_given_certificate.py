"""The edge with a given certificate: what clients get, what the other edges get, and what is refused before anything changes."""

import json
import socket
import ssl
import time
from pathlib import Path

import pytest
from authority import Authority, Given, pem
from clients import play, wait_until_ready

NAME = "kv.example.net"
#: Over a root's socket of HAProxy, whose container has no tool for it.
STATES = r"""
import json, socket, subprocess
pid = subprocess.run(["docker", "inspect", "-f", "{{.State.Pid}}", "edge"], capture_output=True, text=True).stdout.strip()
link = socket.socket(socket.AF_UNIX)
link.connect(f"/proc/{pid}/root/run/haproxy/admin.sock")
link.sendall(b"show stat\n")
text = b"".join(iter(lambda: link.recv(65536), b"")).decode()
rows = [line.split(",") for line in text.splitlines() if "," in line]
print(json.dumps({f"{r[0]}/{r[1]}": r[17] for r in rows}))
"""


def served(address: str, port: int, name: str | None, trusted: str) -> dict:
    """The certificate that a client gets who asks for ``name`` and trusts ``trusted`` (PEM); an exception if it does not like it."""
    context = ssl.create_default_context(cadata=trusted)
    context.check_hostname = name is not None
    with socket.create_connection((address, port), timeout=5) as plain, context.wrap_socket(plain, server_hostname=name) as secured:
        return secured.getpeercert()


def states(host) -> dict[str, str]:
    """server -> UP or DOWN, as HAProxy sees it."""
    return json.loads(host.check_output("python3 -c %s", STATES))


@pytest.fixture(scope="module")
def given(lab, tmp_path_factory):
    """A zone whose edge has a given certificate; afterwards the private CA's again."""
    zone = lab.serving[0]
    held = Given(tmp_path_factory.mktemp("given"), NAME)
    done = play("playbooks/zones.yml", "--tags", "edge", "--limit", zone, variables=held.variables)
    assert done.returncode == 0, done.stdout[-3000:]
    yield zone, held
    back = play("playbooks/zones.yml", "--tags", "edge", "--limit", zone)
    assert back.returncode == 0, back.stdout[-3000:]
    wait_until_ready(lab)
    assert not lab.host(zone).file("/etc/holdfast/edge/given/tls.key").exists


def test_clients_get_it_and_the_other_edges_do_not(lab, given):
    zone, held = given
    address, root = lab.hosts[zone]["address"], pem(held.root.certificate)
    private = Path(lab.ca_file).read_text()
    for port in (5001, 5002):
        assert ("DNS", NAME) in served(address, port, NAME, root)["subjectAltName"]
        assert ("DNS", NAME) in served(address, port, None, root)["subjectAltName"]
        assert ("DNS", zone) in served(address, port, zone, private)["subjectAltName"]
        with pytest.raises(ssl.SSLCertVerificationError):
            served(address, port, NAME, private)
    for other in lab.serving[1:]:
        seen = {name: state for name, state in states(lab.host(other)).items() if name.endswith(f"/edge_{lab.hosts[zone]['zone']}")}
        assert set(seen) == {f"{mode}_other_zones/edge_{lab.hosts[zone]['zone']}" for mode in ("cp", "ap")}
        assert set(seen.values()) <= {"UP", "UP 1/2"}, f"{other} sees {seen}"
    key = lab.host(zone).file("/etc/holdfast/edge/given/tls.key")
    assert (key.uid, key.mode) == (10003, 0o400)
    again = play("playbooks/zones.yml", "--tags", "edge", "--limit", zone, variables=held.variables)
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout[-3000:]


def test_another_zone_hands_over_to_it(lab, given):
    """With no replica of its own ready, a zone's edge goes to the others, the one with the given certificate among them."""
    zone, _held = given
    other = next(edge for edge in lab.edges if edge["zone"] != lab.hosts[zone]["zone"])
    host = lab.host(next(name for name in lab.serving if lab.hosts[name]["zone"] == other["zone"]))
    host.check_output("docker pause app_cp_1 app_cp_2")
    try:
        answered, end = set(), time.monotonic() + 30
        while lab.hosts[zone]["zone"] not in answered:
            assert time.monotonic() < end, f"only {answered} answered"
            try:
                answer = lab.client(None).get(f"{other['cp']}/health", timeout=2)
            except OSError:
                continue  # it met a replica that stands still before the edge had noticed
            answered |= {answer.json()["zone"]} if answer.status_code == 200 else set()
    finally:
        host.check_output("docker unpause app_cp_1 app_cp_2")


def test_a_renewed_one_is_served_after_the_next_run(lab, given):
    zone, held = given
    address, root = lab.hosts[zone]["address"], pem(held.root.certificate)
    before = served(address, 5001, NAME, root)["serialNumber"]
    certificate, key = held.intermediate.issue([NAME])
    held.write("certificate", pem(certificate) + pem(held.intermediate.certificate))
    held.write("key", pem(key))
    done = play("playbooks/zones.yml", "--tags", "edge", "--limit", zone, variables=held.variables)
    assert done.returncode == 0, done.stdout[-3000:]
    end = time.monotonic() + 20
    while served(address, 5001, NAME, root)["serialNumber"] == before:
        assert time.monotonic() < end, "the old certificate is still served"
        time.sleep(0.5)


def test_a_wrong_one_is_refused_before_anything_changes(lab, tmp_path):
    """tests/lab has every kind; this one shows that the whole playbook stops at it."""
    zone = lab.serving[0]
    held = Given(tmp_path, NAME)
    held.write("key", pem(Authority("x").key))
    before = lab.host(zone).check_output("sha256sum /etc/holdfast/edge/haproxy.cfg")
    done = play("playbooks/site.yml", "--limit", zone, variables=held.variables)
    assert done.returncode == 2 and "is the key of another certificate" in done.stdout, done.stdout[-3000:]
    assert "changed=0" in done.stdout.split("PLAY RECAP")[1]
    assert lab.host(zone).check_output("sha256sum /etc/holdfast/edge/haproxy.cfg") == before


@pytest.mark.parametrize("kind", ["foreign", "none"])
def test_a_ca_that_the_hosts_do_not_trust_is_refused_before_anything_changes(lab, tmp_path, kind):
    zone, passphrase = lab.serving[0], "a passphrase for one test"
    if kind == "foreign":
        authority = Authority("Holdfast CA")
        (tmp_path / "ca.pem").write_text(pem(authority.certificate))
        (tmp_path / "ca.key").write_text(pem(authority.key, passphrase))
    variables = {
        "pki_ca_file": str(tmp_path / "ca.pem"),
        "pki_ca_key_file": str(tmp_path / "ca.key"),
        "pki_ca_passphrase": passphrase,
    }
    before = lab.host(zone).check_output("sha256sum /etc/holdfast/tls/*/*")
    done = play("playbooks/site.yml", "--limit", zone, variables=variables)
    assert done.returncode == 2 and f"{zone} trusts another CA than pki_ca_file" in done.stdout, done.stdout[-3000:]
    assert "changed=0" in done.stdout.split("PLAY RECAP")[1] and not list(tmp_path.glob("certificates"))
    assert lab.host(zone).check_output("sha256sum /etc/holdfast/tls/*/*") == before
