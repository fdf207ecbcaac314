"""Backups on the lab's hosts: deployed, with data and a backup of every node after it, and taken away again."""

from collections.abc import Iterator
from contextlib import contextmanager

from clients import play, wait_until_ready

ACCESS = "/etc/holdfast/backup/restic"
WANTED = {"backup_wanted": True}


def nodes(host) -> list[str]:
    return host.check_output("docker ps --format '{{.Names}}' --filter name=^db_g").split()


def with_nodes(lab) -> list[str]:
    """The hosts with nodes, of both regions."""
    return [name for name, host in lab.hosts.items() if host["zone"]]


@contextmanager
def deployed(lab) -> Iterator[None]:
    wait_until_ready(lab)
    client = lab.client()
    for number in range(50):
        client.post(f"{lab.edges[0]['cp']}/write/backed-up-{number}", data=str(number), timeout=5).raise_for_status()
        client.post(f"{lab.edges[0]['ap']}/write/backed-up-{number}", data=str(number), timeout=5).raise_for_status()
    made = play("playbooks/site.yml", variables=WANTED)
    assert made.returncode == 0, made.stdout[-4000:]
    for name in with_nodes(lab):
        for node in nodes(lab.host(name)):
            lab.host(name).check_output(f"systemctl start holdfast-backup@{node}")
    yield
    for name in with_nodes(lab):
        for node in nodes(lab.host(name)):
            unit = f"holdfast-backup@{node}"
            lab.host(name).check_output(f"systemctl disable --now {unit}.timer && systemctl stop {unit} && docker rm -f backup_{node}")
    lab.host("lab-ops1").check_output("systemctl disable --now restic-rest-server holdfast-backup-keep.timer holdfast-restore-drill.timer")
    play("playbooks/hosts.yml", "--tags", "firewall,docker_engine")
