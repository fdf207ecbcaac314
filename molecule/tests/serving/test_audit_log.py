"""Who did what on a host is in one file within seconds, whoever did it, from the network's side."""

import json
import subprocess
import time
import uuid

import pytest

FILE = "/var/log/holdfast/audit.jsonl"
WITHIN_SEC = 10


def entries(lab, host_name: str, word: str = "", **wanted: str) -> list[dict]:
    """The lines that hold ``word`` and these fields, each of which must be JSON with what every line has.

    Read whole, not searched over there: a search is a sudo command with the word in it, and on record itself.
    """
    lines = lab.host(host_name).file(FILE).content_string.splitlines()
    found = [json.loads(line) for line in lines]
    assert all({"ts", "host", "stream", "source", "event"} <= set(entry) and entry["stream"] == "audit" for entry in found)
    return [entry for entry, line in zip(found, lines, strict=True) if word in line and wanted.items() <= entry.items()]


def wait_for(look) -> list[dict]:
    """What ``look`` returns, once there is something."""
    end = time.monotonic() + WITHIN_SEC
    while not (found := look()):
        assert time.monotonic() < end, f"not on record within {WITHIN_SEC} s"
        time.sleep(0.3)
    return found


def sudo(lab, host_name: str) -> str:
    """A sudo command; returns what its line must end with."""
    mark = f"mark-{uuid.uuid4()}"
    lab.host(host_name).check_output("sudo -u nobody /bin/true %s", mark)
    return f"USER=nobody ; COMMAND=/bin/true {mark}"


def sudo_entries(lab, host_name: str, said: str) -> list[dict]:
    return [entry for entry in entries(lab, host_name, event="SUDO_COMMAND", source="sudo") if entry["message"].endswith(said)]


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
    (entry, *_) = wait_for(lambda: entries(lab, host_name, stranger, event="SSH_REFUSED", host=host_name))
    assert entry["source"].startswith("sshd")
    accepted = lambda: entries(lab, host_name, "publickey for admin", event="SSH_ACCEPTED")  # noqa: E731
    before = len(accepted())
    assert knock(lab, host_name, "admin", lab.data["ssh"]["key_file"]) == 0
    wait_for(lambda: accepted()[before:])


def test_sudo_is_on_record(lab, host_name):
    said = sudo(lab, host_name)
    assert len(wait_for(lambda: sudo_entries(lab, host_name, said))) == 1


def test_a_refused_token_is_on_record_and_nothing_else_of_the_request(lab, edge, mode):
    """The line of the request's own zone, with what happened; no token, and no line for the requests that were let in."""
    name = next(name for name in lab.serving if lab.hosts[name]["zone"] == edge["zone"])
    key, token, value = f"audited-{uuid.uuid4()}", f"made-up-{uuid.uuid4()}", f"value-{uuid.uuid4()}"
    before = len(entries(lab, name, source="service", mode=mode))
    refused = lab.client(None).get(f"{edge[mode]}/read/{key}", headers={"Authorization": f"Bearer {token}"}, timeout=5)
    forbidden = lab.client("read").post(f"{edge[mode]}/write/{key}", data=value, timeout=5)
    assert (refused.status_code, forbidden.status_code) == (401, 403)
    assert lab.client().get(f"{edge[mode]}/read/{key}", timeout=5).status_code == 404

    def new() -> list[dict]:
        return entries(lab, name, source="service", mode=mode)[before:]

    found = wait_for(lambda: seen if len(seen := new()) >= 2 else [])
    assert {(entry["event"], entry["http_status"]) for entry in found} == {("AUTHENTICATION_FAILURE", 401), ("AUTHORIZATION_FAILURE", 403)}
    text = lab.host(name).file(FILE).content_string
    assert token not in text and value not in text
    logged = "".join(lab.host(name).run(f"docker logs --since 2m app_{mode}_{number} 2>&1").stdout for number in (1, 2))
    assert "AUTHENTICATION_FAILURE" in logged, "docker logs no longer shows what on-call expects there"


def test_the_file_is_for_root_and_adm_and_survives_rotation_and_a_stopped_rsyslog(lab, serving_name):
    host = lab.host(serving_name)
    file = host.file(FILE)
    assert (file.user, file.group, file.mode) == ("root", "adm", 0o640)
    assert host.file("/var/log/holdfast").mode == 0o750
    first = sudo(lab, serving_name)
    wait_for(lambda: sudo_entries(lab, serving_name, first))
    host.check_output("systemctl stop syslog.socket rsyslog")
    try:
        missed = sudo(lab, serving_name)
        time.sleep(2)
        assert not sudo_entries(lab, serving_name, missed), "somebody else writes the file, so this test shows nothing"
    finally:
        host.check_output("systemctl start syslog.socket rsyslog")
    wait_for(lambda: sudo_entries(lab, serving_name, missed))
    host.check_output("logrotate --force /etc/logrotate.d/holdfast")
    later = sudo(lab, serving_name)
    wait_for(lambda: sudo_entries(lab, serving_name, later))
    assert not sudo_entries(lab, serving_name, missed), "the file was not rotated"
    kept = host.check_output("ls -t /var/log/holdfast | grep -v 'audit.jsonl$' | head -1")
    assert missed.split()[-1] in host.check_output(f"zcat -f /var/log/holdfast/{kept}")
    assert host.file(FILE).mode == 0o640
    assert "maxage 90" in host.check_output("cat /etc/logrotate.d/holdfast")


@pytest.mark.parametrize(("field", "refused"), [("path=/etc/passwd", False), ("pathh=/etc/passwd", True)])
def test_audit_rules_are_rules(lab, field, refused):
    """The lab's kernel takes none, but auditctl reads them first; the control is a rule with a mistake."""
    host = lab.host(lab.serving[0])
    rules = host.file("/etc/audit/rules.d/60-holdfast.rules").content_string
    assert rules.count("\n-a ") > 20
    # The first line says: go on after an error.
    host.check_output("printf '%%s' %s > /run/tried.rules", "-c\n" + rules.replace("path=/etc/passwd", field))
    said = host.run("auditctl -R /run/tried.rules || true").stderr.splitlines()
    assert said, "this kernel takes rules, so the lab should load them"
    wrong = [
        line
        for line in said
        if not line.startswith(("Error sending add rule data request (Operation not permitted)", "There was an error"))
    ]
    assert bool(wrong) == refused, wrong
    host.check_output("rm /run/tried.rules")
