"""Every host, seen over SSH."""


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


def test_ssh_wants_a_key(lab, host_name):
    host = lab.host(host_name)
    assert host.check_output("id -un") == "root"  # sudo works
    assert "permitrootlogin yes" not in host.check_output("sshd -T")


def test_secrets_are_not_readable_by_others(lab, serving_name):
    host = lab.host(serving_name)
    listing = host.check_output("find /etc/holdfast /root/.docker -type f -perm /0004 -printf '%p\\n'").splitlines()
    assert not [path for path in listing if path.endswith((".key", "users.acl", "config.json")) or "/secrets/" in path]
    assert host.file("/etc/holdfast/tls/app/tls.key").mode == 0o400
