"""Who did what on a host is in one file within seconds, whoever did it, from the network's side."""

import json
import subprocess
import time
import uuid

import pytest

FILE = "/var/log/holdfast/audit.jsonl"
WITHIN_SEC = 10


def entries(lab, host_name: str, word: str) -> list[dict]:
    """The lines that hold ``word``, each of which must be JSON with what every line has."""
    found = [json.loads(line) for line in lab.host(host_name).run("grep --fixed-strings -- %s " + FILE, word).stdout.splitlines()]
    assert all({"ts", "host", "stream", "source", "event"} <= set(entry) and entry["stream"] == "audit" for entry in found)
    return found


def wait_for(lab, host_name: str, word: str, **wanted: str) -> dict:
    end = time.monotonic() + WITHIN_SEC
    while True:
        found = entries(lab, host_name, word)
        for entry in found:
            if wanted.items() <= entry.items():
                return entry
        assert time.monotonic() < end, f"{wanted} with {word} is not on record: {found}"
        time.sleep(0.3)


def knock(lab, host_name: str, user: str, key: str) -> int:
    """An SSH login from here; the exit code."""
    data = lab.data["ssh"]
    options = [
        f"UserKnownHostsFile={data['known_hosts_file']}",
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "ControlPath=none",
        "ConnectTimeout=5",
    ]
    given = [word for option in options for word in ("-o", option)]
    done = subprocess.run(["ssh", *given, "-i", key, f"{user}@{lab.hosts[host_name]['address']}", "true"], capture_output=True)
    return done.returncode


def test_logins_are_on_record_refused_ones_too(lab, host_name, tmp_path):
    stranger = f"stranger-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    assert knock(lab, host_name, stranger, str(tmp_path / "key")) == 255
    entry = wait_for(lab, host_name, stranger, event="SSH_REFUSED")
    assert entry["host"] == host_name and entry["source"].startswith("sshd")
    before = len([e for e in entries(lab, host_name, "SSH_ACCEPTED") if "publickey for admin" in e["message"]])
    assert knock(lab, host_name, "admin", lab.data["ssh"]["key_file"]) == 0
    end = time.monotonic() + WITHIN_SEC
    while len([e for e in entries(lab, host_name, "SSH_ACCEPTED") if "publickey for admin" in e["message"]]) <= before:
        assert time.monotonic() < end, "an accepted login is not on record"
        time.sleep(0.3)


def test_sudo_is_on_record(lab, host_name):
    mark = f"mark-{uuid.uuid4()}"
    lab.host(host_name).check_output("sudo -u nobody /bin/true %s", mark)
    entry = wait_for(lab, host_name, f"/true {mark}".replace("/", "\\/"), event="SUDO_COMMAND")
    assert entry["source"] == "sudo" and "USER=nobody" in entry["message"]


def test_a_refused_token_is_on_record_and_nothing_else_of_the_request(lab, edge, mode):
    """The line of the request's own zone, with what happened; no token, and no line for the requests that were let in."""
    name = next(name for name in lab.serving if lab.hosts[name]["zone"] == edge["zone"])
    key, token = f"audited-{uuid.uuid4()}", f"made-up-{uuid.uuid4()}"
    client = lab.client(None)
    refused = client.get(f"{edge[mode]}/read/{key}", headers={"Authorization": f"Bearer {token}"}, timeout=5)
    forbidden = lab.client("read").post(f"{edge[mode]}/write/{key}", data="value-of-a-user", timeout=5)
    assert (refused.status_code, forbidden.status_code) == (401, 403)
    assert lab.client().get(f"{edge[mode]}/read/{key}", timeout=5).status_code == 404
    end = time.monotonic() + WITHIN_SEC
    wanted = {("AUTHENTICATION_FAILURE", 401), ("AUTHORIZATION_FAILURE", 403)}
    while True:
        seen = {
            (e["event"], e["http_status"]) for e in entries(lab, name, '"service"') if e["mode"] == mode and e["http_status"] in (401, 403)
        }
        if wanted <= seen:
            break
        assert time.monotonic() < end, f"on record are {seen}"
        time.sleep(0.3)
    assert entries(lab, name, token) == [] == entries(lab, name, "value-of-a-user")
    assert {entry["event"] for entry in entries(lab, name, '"service"')} <= {event for event, _ in wanted} | {
        "BREAKER_FORCED",
        "ENTRY_RESTAMPED",
    }
    logged = "".join(lab.host(name).run(f"docker logs --tail 400 app_{mode}_{number} 2>&1").stdout for number in (1, 2))
    assert "AUTHENTICATION_FAILURE" in logged, "docker logs no longer shows what on-call expects there"


def test_the_file_is_for_root_and_adm_and_survives_rotation_and_a_stopped_rsyslog(lab, serving_name):
    host = lab.host(serving_name)
    file = host.file(FILE)
    assert (file.user, file.group, file.mode) == ("root", "adm", 0o640)
    assert host.file("/var/log/holdfast").mode == 0o750
    marks = [f"mark-{uuid.uuid4()}" for _ in range(3)]
    host.check_output(f"sudo -u nobody /bin/true {marks[0]}")
    wait_for(lab, serving_name, marks[0], event="SUDO_COMMAND")
    host.check_output("systemctl stop syslog.socket rsyslog")
    try:
        host.check_output(f"sudo -u nobody /bin/true {marks[1]}")
        time.sleep(2)
        assert f"true {marks[1]}" not in host.file(FILE).content_string, "somebody else writes the file, so this test shows nothing"
    finally:
        host.check_output("systemctl start syslog.socket rsyslog")
    wait_for(lab, serving_name, marks[1], event="SUDO_COMMAND")
    host.check_output("logrotate --force /etc/logrotate.d/holdfast")
    host.check_output(f"sudo -u nobody /bin/true {marks[2]}")
    wait_for(lab, serving_name, marks[2], event="SUDO_COMMAND")
    kept = host.check_output("ls -t /var/log/holdfast | grep -v 'audit.jsonl$' | head -1")
    assert marks[0] in host.check_output(f"zcat -f /var/log/holdfast/{kept}")
    assert host.file(FILE).mode == 0o640
    assert "maxage 90" in host.check_output("cat /etc/logrotate.d/holdfast")


@pytest.mark.parametrize(("field", "refused"), [("path=/etc/passwd", False), ("pathh=/etc/passwd", True)])
def test_audit_rules_are_rules(lab, field, refused):
    """The lab's kernel takes none, but auditctl reads them first; the control is a rule with a mistake."""
    host = lab.host(lab.serving[0])
    rules = host.file("/etc/audit/rules.d/60-holdfast.rules").content_string
    assert rules.count("\n-a ") > 20
    host.check_output("printf %s > /run/tried.rules", rules.replace("path=/etc/passwd", field))
    said = host.run("auditctl -c -R /run/tried.rules").stderr.splitlines()
    assert said, "this kernel takes rules, so the lab should load them"
    wrong = [
        line
        for line in said
        if not line.startswith(("Error sending add rule data request (Operation not permitted)", "There was an error"))
    ]
    assert bool(wrong) == refused, wrong
    host.check_output("rm /run/tried.rules")
