"""A node is restarted only while the others are a majority of confirmed voters, by what real nodes say of themselves."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import time

import pytest
import redis
from runs import ROOT

SPEC = importlib.util.spec_from_file_location("redis_node_voters", ROOT / "roles/redis_node/library/redis_node_voters.py")
assert SPEC
assert SPEC.loader
MODULE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)
NODES = ("db_g1", "db_g2", "db_g3")
EARLIER = "e" * 40
TASKS = ROOT / "roles/redis_node/tasks/majority.yml"


def node(name, state="member", epoch=1, membership=1, confirmed="run", region="east"):
    return MODULE.Said(state, region, name, str(epoch), str(membership), confirmed, "run")


def judge(target="db_g1", confirmed=True, nodes=NODES, **others):
    """``others``: what differs from three members that were confirmed."""
    said = {name: node(name) for name in nodes}
    for name, one in others.items():
        said[name] = one if one is None or isinstance(one, MODULE.Said) else node(name, **one)
    return MODULE.judge(target, said, confirmed)


def test_two_confirmed_members_of_three_are_enough():
    assert judge() == ("", ["db_g2", "db_g3"])


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (None, "db_g2 does not answer"),
        ({"state": "recovering"}, "db_g2 does not vote: it is recovering"),
        ({"confirmed": "earlier"}, "db_g2 was started and nobody has confirmed it yet"),
        ({"epoch": 0, "state": "fenced"}, "db_g2 does not vote: it is fenced"),
        ({"epoch": 0}, "db_g2 is at region epoch 0, the others at 1"),
        ({"membership": 2}, "db_g2 is at membership epoch 2, the others are not"),
        ({"region": "west"}, "db_g2 says that it is db_g2 of region west"),
        (MODULE.Said("member", "east", "db_g9", "1", "1", "run", "run"), "db_g2 says that it is db_g9 of region east"),
        (MODULE.Said("", "", "", "", "", "", "run"), "db_g2 has no guard"),
    ],
)
def test_one_that_does_not_vote_holds_a_restart_up_although_its_port_is_open(other, why):
    said = judge(db_g2=other).why
    assert why in said or (other == {"membership": 2} and "membership epoch" in said), said


def test_a_restart_of_the_one_that_does_not_vote_takes_nothing_away():
    for one in ({"state": "recovering"}, {"confirmed": "earlier"}, {"epoch": 0}, None):
        assert judge("db_g2", db_g2=one) == ("", ["db_g1", "db_g3"])


def test_the_last_confirmed_one_is_kept_though_no_majority_is_confirmed_at_this_moment():
    started = {"confirmed": "earlier"}
    assert "db_g2 was started" in judge("db_g1", db_g2=started, db_g3=started).why


def test_where_nobody_confirms_a_start_counts_at_once():
    started = {"confirmed": "earlier"}
    assert judge(confirmed=False, db_g2=started, db_g3=started).why == ""
    assert judge(db_g2={"confirmed": ""}).why == "", "a guard of before there was another region"


def test_promoted_nodes_vote():
    promoted = {name: {"state": "promoted", "epoch": 2} for name in NODES}
    assert judge(**promoted) == ("", ["db_g2", "db_g3"])
    assert "recovering" in judge(**promoted | {"db_g3": {"state": "recovering", "epoch": 2}}).why


@pytest.mark.parametrize(
    "all_alike",
    [
        dict.fromkeys(NODES, MODULE.Said("", "", "", "", "", "", "run")),
        {name: {"state": "fenced", "epoch": 2} for name in NODES},
        {"db_g1": {}, "db_g2": {"state": "recovering"}, "db_g3": {"state": "recovering"}},
        {"db_g3": {"state": "fenced", "epoch": 2}},
    ],
    ids=["new", "fenced", "healing", "fence under way"],
)
def test_where_no_majority_votes_anyhow_the_others_must_answer_and_no_more(all_alike):
    assert judge(**all_alike) == ("", [])
    assert judge(**all_alike | {"db_g2": None}).why == "db_g2 does not answer"


def test_of_five_two_may_be_away():
    five = (*NODES, "db_g4", "db_g5")
    assert judge(nodes=five, db_g5={"state": "recovering"}).why == ""
    said = judge(nodes=five, db_g5={"state": "recovering"}, db_g4=None).why
    assert said == "db_g4 does not answer; db_g5 does not vote: it is recovering"


DOCKER = """#!/bin/sh
# "docker ps ...": whether the node runs.
# "docker exec db_g1 timeout 3 redis-cli ...": the node's own client without an address is that of the container.
[ "$1" = exec ] || { echo "$RUNNING"; exit; }
shift; own=$1; shift
case " $* " in *" -p "*) exec "$@" ;; esac
port=$(cat "$PORTS/$own"); shift 3
exec redis-cli -p "$port" "$@"
"""


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    """Three real nodes: {name: (client, what the module is told of it)}."""
    server = shutil.which("redis-server") or str(ROOT / ".venv/bin/redis-server")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(DOCKER)
    (tmp_path / "bin/docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("PORTS", str(tmp_path))
    processes, made = [], {}
    try:
        for name in NODES:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            (tmp_path / name).write_text(str(port))
            options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
            processes.append(subprocess.Popen([server, *options], stdout=subprocess.DEVNULL))
            made[name] = (redis.Redis(port=port, decode_responses=True), {"name": name, "address": "127.0.0.1", "port": port})
        for name, (client, _) in made.items():
            for _ in range(100):
                if client_answers(client):
                    break
                time.sleep(0.1)
            guard = {"state": "member", "region": "east", "node": name, "region_epoch": 1, "membership_epoch": 1, "incarnation": "x"}
            client.hset("holdfast:guard", mapping=guard | {"confirmed": client.info("server")["run_id"]})
        yield made
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def client_answers(client) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def run(nodes, seconds=0.0):
    """The module as Ansible runs it."""
    given = {
        "node": "db_g1",
        "others": [told for name, (_, told) in nodes.items() if name != "db_g1"],
        "confirmed": True,
        "seconds": seconds,
    }
    command = [ROOT / ".venv/bin/python", ROOT / "roles/redis_node/library/redis_node_voters.py"]
    text = json.dumps({"ANSIBLE_MODULE_ARGS": given})
    return json.loads(subprocess.run(command, input=text, capture_output=True, text=True, timeout=60).stdout)


def test_real_nodes_are_asked_through_the_one_that_is_restarted(nodes):
    assert sorted(run(nodes)["voting"]) == ["db_g2", "db_g3"]
    client = nodes["db_g2"][0]
    client.hset("holdfast:guard", "confirmed", EARLIER)
    failed = run(nodes)
    assert failed["failed"] and "db_g1 was not restarted" in failed["msg"] and "db_g2 was started and nobody" in failed["msg"]
    client.delete("holdfast:guard")
    assert "db_g2 has no guard" in run(nodes)["msg"]
    client.shutdown(nosave=True)
    assert "db_g2 does not answer" in run(nodes)["msg"]


def test_it_waits_for_one_that_is_confirmed_a_moment_later(nodes):
    client = nodes["db_g2"][0]
    right = client.hget("holdfast:guard", "confirmed")
    client.hset("holdfast:guard", "confirmed", EARLIER)
    later = subprocess.Popen(["sh", "-c", f"sleep 1.5; redis-cli -p {nodes['db_g2'][1]['port']} hset holdfast:guard confirmed {right}"])
    assert sorted(run(nodes, seconds=20.0)["voting"]) == ["db_g2", "db_g3"]
    assert later.wait() == 0


def test_the_tasks_of_a_restart_stop_it_and_let_a_node_start_that_does_not_run(nodes, tmp_path):
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [{"ansible.builtin.include_tasks": str(TASKS)}]}
    told = [one for _, one in nodes.values()]
    play["vars"] = {"node": told[0], "__redis_node_others": told[1:], "redis_node_other_region": [{"name": "db_g1"}]}
    play["vars"] |= {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    play["module_defaults"] = {"redis_node_voters": {"seconds": 1}}
    (tmp_path / "play.yml").write_text(json.dumps([play]))

    def start(running="the container"):
        env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        env |= {"ANSIBLE_LIBRARY": str(ROOT / "roles/redis_node/library"), "ANSIBLE_NOCOLOR": "1", "RUNNING": running}
        command = [ROOT / ".venv/bin/ansible-playbook", "-i", "localhost,", "-c", "local", tmp_path / "play.yml"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        return done.returncode, " ".join(done.stdout.split())

    code, said = start()
    assert code == 0, said
    nodes["db_g3"][0].hset("holdfast:guard", "state", "recovering")
    code, said = start()
    assert code != 0 and "db_g1 was not restarted" in said and "db_g3 does not vote: it is recovering" in said, said
    assert start(running="")[0] == 0
