"""The Redis nodes: what they promise, asked on the host, and what they refuse, tried over the network."""

import json

PROMISES = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "aof-load-truncated": "no",
    "maxmemory-policy": "noeviction",
    "maxclients": "10000",
}


def node_of(lab, serving_name):
    names = lab.host(serving_name).check_output("docker ps --format '{{.Names}}' --filter name=^db_g")
    return names.strip()


def test_node_keeps_its_promises(lab, serving_name):
    host, node = lab.host(serving_name), node_of(lab, serving_name)
    for name, value in PROMISES.items():
        answer = host.check_output(f"docker exec {node} redis-cli config get {name}").splitlines()
        assert answer == [name, value]


def test_maxclients_really_hold(lab, serving_name):
    host, node = lab.host(serving_name), node_of(lab, serving_name)
    limit = int(host.check_output(f"docker exec {node} sh -c 'ulimit -n'"))
    assert limit >= 10000 + 32


def test_node_started_without_a_warning(lab, serving_name):
    host, node = lab.host(serving_name), node_of(lab, serving_name)
    log = host.check_output(f"docker logs {node} 2>&1")
    assert "Ready to accept connections" in log
    assert "# WARNING" not in log.upper() and "You requested maxclients" not in log


def test_container_is_confined(lab, serving_name):
    host = lab.host(serving_name)
    for name in host.check_output("docker ps --format '{{.Names}}'").split():
        state = json.loads(host.check_output(f"docker inspect {name}"))[0]
        assert state["Config"]["User"] not in ("", "0", "root"), name
        assert state["HostConfig"]["ReadonlyRootfs"], name
        assert state["HostConfig"]["CapDrop"] == ["ALL"] and not state["HostConfig"]["CapAdd"], name
        assert "no-new-privileges:true" in state["HostConfig"]["SecurityOpt"], name
        assert state["HostConfig"]["Memory"] > 0 and state["HostConfig"]["NanoCpus"] > 0, name
        assert state["HostConfig"]["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10m"}, name
        assert state["State"]["Health"]["Status"] == "healthy", name
        assert "@sha256:" in state["Config"]["Image"], name


def test_no_secret_in_what_docker_shows(lab, serving_name):
    host = lab.host(serving_name)
    shown = host.check_output("docker inspect $(docker ps -q)") + host.check_output("ps -eo args")
    files = host.check_output("cat /etc/holdfast/app/secrets/secret_key; echo; cat /etc/holdfast/app/secrets/redis_password")
    secrets = files.split()
    assert len(secrets) == 2
    for secret in secrets:
        assert secret not in shown


def said_to_another_zone(lab, serving_name, command):
    """What a node answers to a command run on another zone's host: only those reach it."""
    other = next(name for name in lab.serving if name != serving_name)
    address = lab.hosts[serving_name]["address"]
    assert lab.host(other).run(f"timeout 2 bash -c '</dev/tcp/{address}/6379'").rc == 0
    done = lab.host(other).run(command.format(address=address))
    return done.stdout + done.stderr


def test_node_speaks_no_plain_text(lab, serving_name):
    plain = "timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/6379; printf \"PING\\r\\n\" >&3; timeout 2 head -c 100 <&3'"
    assert "PONG" not in said_to_another_zone(lab, serving_name, plain)


def test_node_refuses_a_client_without_certificate(lab, serving_name):
    secured = "(printf 'PING\\r\\n'; sleep 1) | timeout 5 openssl s_client -quiet -connect {address}:6379"
    said = said_to_another_zone(lab, serving_name, secured)
    assert "certificate required" in said and "PONG" not in said, said


def test_node_refuses_to_start_on_vanished_data(lab):
    """On a copy of the node's start, beside the real one: an empty directory, another node's, and one whose log is gone."""
    host = lab.host(lab.serving[0])
    image = host.check_output("docker inspect --format '{{.Config.Image}}' " + node_of(lab, lab.serving[0]))
    cases = {
        "true": "has no .node-id",
        "echo db_g9 > /data/.node-id": "belongs to db_g9",
        "echo db_g1 > /data/.node-id": "is gone",
    }
    for prepare, message in cases.items():
        script = f"{prepare}; exec redis-node"
        done = host.run(
            f"docker run --rm --network none --tmpfs /data:uid=10002 --env REDIS_NODE_ID=db_g1 --entrypoint sh {image} -c '{script}'"
        )
        assert done.rc == 78 and message in done.stderr and "Cure:" in done.stderr
