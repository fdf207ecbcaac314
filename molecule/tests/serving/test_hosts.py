"""Every host, seen over SSH."""

import subprocess
from pathlib import Path


def test_host_runs_debian_13_with_all_units_well(lab, host_name):
    host = lab.host(host_name)
    assert (host.system_info.distribution, host.system_info.release.split(".")[0]) == ("debian", "13")
    assert host.check_output("systemctl is-system-running") == "running"


def test_engine_is_debians_and_starts_at_boot(lab, host_name):
    host = lab.host(host_name)
    assert host.package("docker.io").is_installed
    assert host.service("docker").is_running and host.service("docker").is_enabled


def test_kernel_lets_redis_rewrite_under_load(lab, host_name):
    assert lab.host(host_name).sysctl("vm.overcommit_memory") == 1


def ssh_said(lab, host_name, user, *options):
    """What the SSH server answers to somebody without our key, over the network."""
    data = lab.data["ssh"]
    known = ["-o", f"UserKnownHostsFile={data['known_hosts_file']}", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
    command = ["ssh", *known, *options, f"{user}@{lab.hosts[host_name]['address']}", "true"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr


def test_ssh_wants_a_key_and_offers_nothing_else(lab, host_name):
    host = lab.host(host_name)
    assert host.check_output("id -un") == "root"  # sudo works
    code, said = ssh_said(lab, host_name, "admin", "-o", "PubkeyAuthentication=no")
    assert code == 255 and said.strip().endswith("Permission denied (publickey).")
    assert host.check_output("passwd --status root").split()[1] == "L"


def test_nobody_comes_in_as_root(lab, host_name):
    """Not even with a key that root trusts."""
    host, key = lab.host(host_name), lab.data["ssh"]["key_file"]
    public = Path(key).with_suffix(".pub").read_text().strip()
    host.check_output(f"install -d -m 0700 ~root/.ssh && echo '{public}' > ~root/.ssh/authorized_keys")
    try:
        assert ssh_said(lab, host_name, "admin", "-i", key)[0] == 0, "the key works for nobody, so this test shows nothing"
        code, said = ssh_said(lab, host_name, "root", "-i", key)
        assert code == 255 and "Permission denied" in said
    finally:
        host.check_output("rm ~root/.ssh/authorized_keys")


def test_security_updates_install_themselves(lab, host_name):
    host = lab.host(host_name)
    assert host.package("unattended-upgrades").is_installed
    assert 'APT::Periodic::Unattended-Upgrade "1";' in host.check_output("apt-config dump")
    assert all(host.service(timer).is_enabled for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"))


def test_journal_is_kept_and_bounded_and_holds_no_modules_arguments(lab, host_name):
    host = lab.host(host_name)
    assert host.file("/var/log/journal").is_directory
    assert "SystemMaxUse=1073741824" in host.check_output("systemd-analyze cat-config systemd/journald.conf")
    assert host.check_output(r"journalctl --boot | grep -c 'ansible-[a-z_.]*\[[0-9]*\]: Invoked with' || true") == "0"


def test_secrets_are_not_readable_by_others(lab, serving_name):
    host = lab.host(serving_name)
    listing = host.check_output("find /etc/holdfast /root/.docker -type f -perm /0004 -printf '%p\\n'").splitlines()
    assert not [path for path in listing if path.endswith((".key", "users.acl", "config.json")) or "/secrets/" in path]
    assert host.file("/etc/holdfast/tls/app/tls.key").mode == 0o400
