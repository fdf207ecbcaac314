"""Certificates are renewed under load, then the CA with them; looked at from where clients are, and with clients of the old CA."""

import shutil
import socket
import ssl
from pathlib import Path

import pytest
from rotations import killed, load, refused, runbook

PORTS = {"lab-a1": [5001, 5002], "lab-b1": [5001, 5002], "lab-c1": [5001, 5002], "lab-dr1": [5001, 5002], "lab-ops1": [5000]}
NODES = {"lab-a1": [6379], "lab-b1": [6379], "lab-c1": [6379], "lab-dr1": [6379, 6380, 6381]}
CLIENT = "/etc/holdfast/tls/redis_node"


def trusted(lab, host: str, port: int, ca_file: str) -> str:
    """The serial number that a client which trusts this CA is shown; empty when it goes away."""
    address = lab.hosts[host]["address"]
    context = ssl.create_default_context(cafile=ca_file)
    try:
        with (
            socket.create_connection((address, port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=address) as link,
        ):
            return str(link.getpeercert()["serialNumber"])
    except ssl.SSLCertVerificationError:
        return ""


def nodes(lab) -> dict[str, str]:
    """The serial number that each node shows to another zone's host: only those reach it."""
    seen = {}
    for host, ports in NODES.items():
        other = next(name for name in NODES if name != host)
        for port in ports:
            shown = f"openssl s_client -connect {lab.hosts[host]['address']}:{port} < /dev/null 2> /dev/null | openssl x509 -noout -serial"
            seen[f"{host}:{port}"] = lab.host(other).check_output(shown).strip().partition("=")[2]
    return seen


def serials(lab, ca_file: str | None = None) -> dict[str, str]:
    return {f"{host}:{port}": trusted(lab, host, port, ca_file or lab.ca_file) for host, ports in PORTS.items() for port in ports}


def all_serials(lab) -> dict[str, str]:
    return serials(lab) | nodes(lab)


def started(lab) -> dict[str, str]:
    """Since when each container runs: none is replaced for a certificate."""
    ask = "docker ps --quiet | xargs docker inspect --format '{{.Name}} {{.State.StartedAt}}'"
    return {host: "\n".join(sorted(lab.host(host).check_output(ask).splitlines())) for host in NODES}


def renewed(before: dict[str, str], after: dict[str, str]) -> bool:
    return before.keys() == after.keys() and "" not in after.values() and not set(before.values()) & set(after.values())


def test_leaves_are_renewed(lab):
    before, since = all_serials(lab), started(lab)
    with load(lab):
        runbook("rotate_certificates", renew="leaves", confirm="leaves")
    assert renewed(before, all_serials(lab))
    assert started(lab) == since


@pytest.fixture(scope="module")
def old_ca(lab, tmp_path_factory) -> Path:
    """A client that trusts the old CA only, and a certificate for Redis that the old CA signed."""
    place = tmp_path_factory.mktemp("old")
    shutil.copy(lab.ca_file, place / "ca.pem")
    for name in ("tls.crt", "tls.key"):
        (place / name).write_text(lab.host("lab-a1").check_output(f"cat {CLIENT}/{name}") + "\n")
    return place


def knock(lab, old: Path) -> str:
    """What a node says to a client with the old CA's certificate. Tried from another host, over TLS, with nothing but that."""
    host, address = lab.host("lab-b1"), lab.hosts["lab-a1"]["address"]
    host.check_output("install -d -m 700 /run/old")
    for name in ("tls.crt", "tls.key"):
        host.check_output(f"cat > /run/old/{name} <<'END'\n{(old / name).read_text()}\nEND")
    certificate = "-cert /run/old/tls.crt -key /run/old/tls.key"
    done = host.run(f"(printf 'PING\\r\\n'; sleep 1) | timeout 5 openssl s_client -quiet {certificate} -connect {address}:6379")
    host.check_output("rm -r /run/old")
    return done.stdout + done.stderr


def test_stages_of_the_ca_come_in_their_order(old_ca):
    for stage in ("use", "drop"):
        assert "stage=accept" in refused("rotate_certificates", renew="ca", stage=stage, confirm=stage)


def test_both_cas_are_trusted_first(lab, old_ca):
    before = all_serials(lab)
    with load(lab):
        runbook("rotate_certificates", renew="ca", stage="accept", confirm="accept")
    assert all_serials(lab) == before
    assert Path(lab.ca_file).read_text().count("BEGIN CERTIFICATE") == 2
    assert "NOAUTH" in knock(lab, old_ca), "the control of the last test"


def test_the_new_ca_signs(lab, old_ca):
    """The first run is killed in a zone, the second one goes on. A client without the new CA goes away: hence the first stage."""
    before = all_serials(lab)
    with load(lab):
        killed("rotate_certificates", at="Switch to the new keys and certificates", renew="ca", stage="use", confirm="use")
        runbook("rotate_certificates", renew="ca", stage="use", confirm="use")
    assert renewed(before, all_serials(lab))
    assert set(serials(lab, str(old_ca / "ca.pem")).values()) == {""}
    assert "NOAUTH" in knock(lab, old_ca), "the old CA's clients are still let in"


def test_the_old_ca_is_trusted_no_more(lab, old_ca):
    before = all_serials(lab)
    with load(lab):
        runbook("rotate_certificates", renew="ca", stage="drop", confirm="drop")
    assert all_serials(lab) == before
    assert Path(lab.ca_file).read_text().count("BEGIN CERTIFICATE") == 1 and not (Path(lab.ca_file).parent / "rotation").exists()
    said = knock(lab, old_ca)
    assert "NOAUTH" not in said and "unknown ca" in said, said
