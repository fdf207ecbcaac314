"""What the role writes for each kind of repository, how restic is started with it, and what preflight refuses."""

import json
import os
import re
import stat
import subprocess
import sys

import pytest
from far import ROOT, Host
from servers import new_key

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the files are root's, which needs root")

#: Writes down how restic was started.
SPY = """#!/usr/bin/python3
import json, os, pathlib, sys
pathlib.Path(__file__).with_name("started").write_text(json.dumps({"words": sys.argv[1:], "env": dict(os.environ)}))
"""
S3 = {"s3_key_id": "AKEYOFAHOST", "s3_secret_key": "its+secret/part"}
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGX0Zb8bVJ5gTqJ8f5m1w8sX0rE6l2JxQ0Z5cN7u3k1a"


def started(host: Host) -> dict:
    (host.place / "bin/restic").write_text(SPY)
    (host.place / "bin/restic").chmod(0o755)
    host.env |= {"AWS_ACCESS_KEY_ID": "somebody else's", "AWS_SECRET_ACCESS_KEY": "of somebody else", "AWS_PROFILE": "other"}
    assert host.restic("snapshots").returncode == 0
    return json.loads((host.place / "bin/started").read_text())


def test_a_bucket_is_reached_with_files_only_and_with_nobody_elses_keys(tmp_path):
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    host = Host(tmp_path, "s3:https://s3.example.net:9000/bucket/holdfast/", S3)
    code, said = host.play("access", backup_ca_file=str(tmp_path / "ca.pem"))
    assert code == 0, said
    held = {path.name: path for path in host.access.iterdir()}
    assert held.keys() == {"repository", "password", "ca.pem", "s3_credentials"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o400 for path in held.values()) and stat.S_IMODE(host.access.stat().st_mode) == 0o700
    assert held["repository"].read_text() == "s3:https://s3.example.net:9000/bucket/holdfast/a1"
    wanted = "[default]\naws_access_key_id = AKEYOFAHOST\naws_secret_access_key = its+secret/part\n"
    assert held["s3_credentials"].read_text() == wanted
    seen = started(host)
    assert seen["env"]["AWS_SHARED_CREDENTIALS_FILE"] == str(held["s3_credentials"])
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} & seen["env"].keys()
    words = seen["words"]
    for option, name in (("--repository-file", "repository"), ("--password-file", "password"), ("--cacert", "ca.pem")):
        assert words[words.index(option) + 1] == str(held[name])
    assert not any(secret in text for secret in S3.values() for text in [*words, *seen["env"].values(), said])


def test_a_change_of_the_kind_of_repository_leaves_no_keys_behind(tmp_path):
    """And the operations host has neither the address nor the password of one repository, as it has many."""
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    host = Host(tmp_path, "s3:https://s3.example.net/bucket", S3)
    assert host.play("access", backup_ca_file=str(tmp_path / "ca.pem"))[0] == 0
    key = {"ssh_key": "-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n-----END OPENSSH PRIVATE KEY-----", "host_keys": [PUBLIC]}
    far = {"backup_repository": "sftp://holdfast@store.example.net:2222//backups", "backup_access": key, "backup_ca_file": "/not/there"}
    code, said = host.play("access", **far)
    assert code == 0, said
    assert {path.name for path in host.access.iterdir()} == {"repository", "password", "ssh_config", "ssh_key", "known_hosts"}
    assert (host.access / "known_hosts").read_text() == f"repository {PUBLIC}\n"
    assert (host.access / "ssh_key").read_text() == key["ssh_key"] + "\n"
    asked = subprocess.run(["ssh", "-G", "-F", host.access / "ssh_config", "repository"], capture_output=True, text=True, check=True)
    settings = dict(line.split(" ", 1) for line in asked.stdout.splitlines())
    wanted = {"hostname": "store.example.net", "port": "2222", "user": "holdfast", "batchmode": "yes", "hostkeyalias": "repository"}
    wanted |= {"stricthostkeychecking": "true", "identitiesonly": "yes", "updatehostkeys": "false", "globalknownhostsfile": "none"}
    wanted |= {"userknownhostsfile": f"{host.access}/known_hosts", "identityfile": f"{host.access}/ssh_key"}
    assert {name: settings[name] for name in wanted} == wanted
    seen = started(host)
    assert f"sftp.command=sh -c 'exec ssh -F {host.access}/ssh_config repository -s sftp 2>&3'" in seen["words"]
    assert "--cacert" not in seen["words"] and "secret\n" not in said
    assert host.play("access", __backup_access_more=[], **far)[0] == 0
    code, said = host.play("access", backup_repository="rest:https://ops1.example.net:8100/", backup_ca_file=str(tmp_path / "ca.pem"))
    assert code == 0 and {path.name for path in host.access.iterdir()} == {"repository", "password", "ca.pem"}, said
    assert re.fullmatch(r"rest:https://a1:[0-9a-f]{64}@ops1\.example\.net:8100/a1/", (host.access / "repository").read_text())


S3_URL, SFTP_URL = "s3:https://s3.example.net/bucket/holdfast", "sftp:holdfast@store.example.net:/backups"
CASES = {  # what is refused, with what; None: nothing is
    "sftp": (SFTP_URL, {}, None),
    "sftp_port": ("sftp://holdfast@store.example.net:2222//backups", {}, None),
    "rest": ("rest:https://ops1.example.net:8100/", {}, None),
    "s3": (S3_URL, {}, None),
    "s3_bucket": ("s3:https://192.0.2.7:9000/bucket", {}, None),
    "unknown": ("ftp:https://ops1.example.net/", {}, "backup_repository is 'ftp:"),
    "empty": ("", {}, "backup_repository is ''"),
    "rest_user": ("rest:https://bob@ops1.example.net/", {}, "backup_repository is 'rest:"),
    "s3_plain": ("s3:http://s3.example.net/bucket", {}, "backup_repository is 's3:http:"),
    "s3_none": ("s3:https://s3.example.net/", {}, "backup_repository is 's3:"),
    "s3_word": ("s3:https://key:word@s3.example.net/bucket", {}, "backup_repository is 's3:https://key:***@s3"),
    "sftp_user": ("sftp:store.example.net:/backups", {}, "backup_repository is 'sftp:"),
    "sftp_home": ("sftp:holdfast@store.example.net:backups", {}, "backup_repository is 'sftp:"),
    "sftp_slash": ("sftp://holdfast@store.example.net:2222/backups", {}, "backup_repository is 'sftp:"),
    "sftp_word": ("sftp:holdfast:word@store.example.net:/backups", {}, "backup_repository is 'sftp:holdfast:***@store"),
    "sftp_option": ("sftp:-oProxyCommand=x@store.example.net:/backups", {}, "backup_repository is 'sftp:"),
    "no_id": (S3_URL, {"s3_key_id": ""}, "has no s3_key_id or no s3_secret_key"),
    "no_secret": (S3_URL, {"s3_secret_key": None}, "has no s3_key_id or no s3_secret_key"),
    "blank": (S3_URL, {"s3_secret_key": "two words"}, "has no s3_key_id or no s3_secret_key"),
    "no_key": (SFTP_URL, {"ssh_key": None}, "has no ssh_key, or it is not a whole private key"),
    "public": (SFTP_URL, {"ssh_key": PUBLIC}, "has no ssh_key, or it is not a whole private key"),
    "cut": (SFTP_URL, {"ssh_key": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl"}, "has no ssh_key, or it is not a whole private key"),
    "no_host": (SFTP_URL, {"host_keys": None}, "host_keys of no_host is []. List the public keys"),
    "no_hosts": (SFTP_URL, {"host_keys": []}, "host_keys of no_hosts is []. List the public keys"),
    "print": (SFTP_URL, {"host_keys": ["SHA256:uNiVztksCsDhcc0u9e8BrrQXVUpKGIYTOpcCqDQ1qJc"]}, "no fingerprint. Read them there"),
    "named": (SFTP_URL, {"host_keys": [PUBLIC, f"store.example.net {PUBLIC}"]}, "no host name before it"),
}


@pytest.mark.parametrize("verb", ["preflight", "server_preflight"])
def test_what_preflight_refuses(verb, tmp_path):
    """One host for each case, all in one run. What must be accepted is the control of what must be refused."""
    new_key(tmp_path / "key")
    access = {**S3, "ssh_key": (tmp_path / "key").read_text(), "host_keys": [PUBLIC]}
    hosts = {
        name: {
            "backup_repository": url,
            "backup_access": {field: value for field, value in (access | changed).items() if value is not None},
        }
        for name, (url, changed, _) in CASES.items()
    }
    given = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "backup_image": "",
        "backup_region": "east",
        "backup_nodes": [{"name": "db_g1", "host": "a1", "address": "192.0.2.1", "port": 6379}],
        "backup_server_users": ["a1"],
        "backup_server_port": 1,
        "backup_redis_password": "x" * 32,
        "backup_repository_password": "y" * 32,
        "backup_server_secret": "z" * 32,
        "backup_ca_file": "",
        "backup_data_directory": f"{tmp_path}/data",
        "backup_store_directory": f"{tmp_path}/store",
    }
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": given}}))
    (tmp_path / "hosts.json").rename(tmp_path / "hosts.yml")
    role = f"    - ansible.builtin.import_role: {{name: backup, tasks_from: {verb}}}\n"
    (tmp_path / "play.yml").write_text(f"- hosts: all\n  gather_facts: false\n  tasks:\n{role}")
    command = [str(ROOT / ".venv/bin/ansible-playbook"), str(tmp_path / "play.yml"), "-i", str(tmp_path / "hosts.yml")]
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        command, cwd=ROOT, env=env | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_STRATEGY": "linear"}, capture_output=True, text=True
    )
    refused = dict(re.findall(r"^fatal: \[(\w+)\]: FAILED! => (.*)$", done.stdout, re.M))
    wrong = [
        (name, refused.get(name, "nothing was said"))
        for name, (_, _, said) in CASES.items()
        if (said is None) == (name in refused) or (said and said not in json.loads(refused[name])["msg"])
    ]
    assert not wrong, (wrong, done.stdout[-3000:], done.stderr[-2000:])
    assert "SFTP cannot forbid it" in done.stdout, "what this cannot see is said"
    assert not any(secret in done.stdout for secret in ("two words", "b3Bl", "its+secret", ":word@"))
