"""A region without power, its return, and a promotion that nobody fenced: by the shipped runbooks, judged by what a client saw."""

import json
import subprocess
import time

import pytest
from clients import ROOT, play, wait_until_ready
from regions import EVIDENCE, REGION, health, judge, region_status, runbook, start_hosts, until, west

EAST = (("lab-a1", "db_g1"), ("lab-b1", "db_g2"), ("lab-c1", "db_g3"))


@pytest.fixture(scope="module")
def failed_over(lab):
    """The region east loses its power; west has taken over."""
    wait_until_ready(lab)
    edges = {edge["zone"]: edge for edge in lab.edges}
    lab.client().post(f"{edges['a']['cp']}/write/before", data="the fault", timeout=5).raise_for_status()
    done, record = runbook("dr_failover", to="west", drill=True, fault="power")
    return done, record


def test_west_takes_over_from_a_region_without_power(lab, failed_over):
    done, record = failed_over
    measured = judge(done, record)
    print({phase["title"]: (phase["seconds"], phase["ansible_seconds"]) for phase in record["phases"]})
    assert record["drill"] is True and record["fault"]["kind"] == "power"
    assert [phase["title"] for phase in record["phases"]] == ["Open", "Preflight", "Confirm", "Prepare", "Switch", "Verify", "Close"]
    if measured:
        assert 0 < record["rto_seconds"] < 120, "the client saw an outage, and its end"
        assert record["rpo_seconds"] < 5
    assert lab.client("read").get(f"{west(lab, 'cp')}/read/before", timeout=5).json()["value"] == "the fault"


def test_evidence_shows_the_drill(failed_over):
    place = sorted(EVIDENCE.glob("*-dr_failover"))[-1]
    page = (place / "report.html").read_text()
    assert "<svg" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert place.name in (EVIDENCE / "index.html").read_text()


def test_west_settles_by_itself(lab, failed_over):
    until("all nodes are members", 60, lambda: {n["state"] for n in region_status(lab, "lab-dr1")["nodes"].values()} == {"member"})


def test_returned_region_serves_nobody(lab, failed_over):
    """East has its power again, its disks hold what they held, and clients still know its addresses."""
    start_hosts(lab)
    reasons: set[str] = set()

    def closed() -> bool:
        reasons.clear()
        for edge in lab.edges:
            for mode in ("cp", "ap"):
                try:
                    said = lab.client().post(f"{edge[mode]}/write/late", data="x", timeout=5)
                except OSError:
                    return False
                assert said.status_code != 200, f"{edge['zone']} acknowledged a write: {said.text}"
                reasons.add(said.json()["error"]["code"])
        return reasons == {"fenced"}

    until("every edge of east says fenced", 90, closed)


def test_site_keeps_west_primary(lab, failed_over):
    done = play("playbooks/site.yml", "--limit", "lab-dr1")
    assert done.returncode == 0, done.stdout[-3000:]
    assert {n["role"] for n in region_status(lab, "lab-dr1")["nodes"].values()} == {"primary"}
    assert health(lab, west(lab, "cp")) == "ready"


def test_east_comes_back_without_losing_a_write(lab, failed_over):
    lab.client().post(f"{west(lab, 'cp')}/write/meanwhile", data="in west", timeout=5).raise_for_status()
    done, record = runbook("dr_failback", to="east", drill=True, replay="none")
    if judge(done, record):
        assert record["lost_acked_writes"] == 0 and record["rto_seconds"] < 60
    wait_until_ready(lab)
    for key, value in (("before", "the fault"), ("meanwhile", "in west")):
        assert lab.client("read").get(f"{lab.edges[-1]['cp']}/read/{key}", timeout=5).json()["value"] == value
    assert {n["role"] for n in region_status(lab, "lab-a1")["peers"].values()} == {"replica"}
    # West's nodes went on from where they ended. Redis's own ping, every ten seconds, may fall into the switch of one: that one is copied.
    copied = [lab.host(h).check_output(f"docker exec {n} redis-cli --raw info stats | grep -c ^sync_full:0; true") == "0" for h, n in EAST]
    assert copied.count(True) <= 1, copied


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"to": "north"}, "region_north"),
        ({"to": "east"}, "serves already"),
        ({"to": "west", "reason": "x"}, "Say in some words why"),
        ({"to": "west", "confirm": "east"}, "so nothing was changed"),
    ],
)
def test_refused_before_anything_changes(lab, variables, said):
    done, _ = runbook("dr_failover", **variables)
    assert done.returncode != 0 and said in done.stdout + done.stderr, done.stdout[-3000:]
    wait_until_ready(lab)


def test_check_mode_changes_nothing(lab):
    done = play("runbooks/dr_failover.yml", "--check", variables={"to": "west", "reason": "a test of the lab", "confirm": "west"})
    assert done.returncode == 0, done.stdout[-3000:]
    assert {health(lab, edge["cp"]) for edge in lab.edges} == {"ready"}


@pytest.fixture(scope="module")
def probe(lab, tmp_path_factory):
    """`holdfast probe` with the lab's CA and token, and the file of the run that nobody fenced."""
    file = tmp_path_factory.mktemp("probe") / "probe.jsonl"
    env = {"PYTHONPATH": str(ROOT / "app/src"), "PATH": "/usr/bin:/bin"}
    access = ["--ca-file", lab.ca_file, "--token-file", lab.data["token_files"]["write"]]

    def command(*arguments: str) -> subprocess.Popen[bytes]:
        full = [ROOT / ".venv/bin/python", "-m", "holdfast", "probe", *arguments]
        return subprocess.Popen([*full, *(access if arguments[0] != "report" else [])], env=env, stdout=subprocess.PIPE)

    def lost(*targets: str) -> int:
        assert command("verify", str(file), *(f"--target={target}" for target in targets)).wait() == 0
        said = json.loads(command("report", str(file), "--json").communicate()[0])
        return said["modes"]["cp"]["recovery"]["lost"]

    return file, command, lost


def test_promotion_without_a_fence_loses_writes_and_the_probe_says_so(lab, probe):
    """The negative control: nobody closes east, which goes on acknowledging until it learns of the promotion, in seconds."""
    wait_until_ready(lab)
    file, command, lost = probe
    targets = [f"--target={edge['zone']}/cp={edge['cp']}" for edge in lab.edges]
    client = command("run", *targets, "--rate=20", "--duration=180", "--prefix=no-drill:", f"--out={file}")
    until("it writes", 30, lambda: file.exists() and file.read_text().count('"op":"write"') > 60)
    host = lab.host("lab-dr1")
    epoch = region_status(lab, "lab-dr1")["epoch"] + 1
    for node in ("db_g1", "db_g2", "db_g3"):
        host.check_output(f"docker exec {node} redis-cli -e replicaof no one")
    promoted = time.monotonic()
    host.check_output(" ".join([*REGION, f"promote --epoch {epoch} --reason 'a test without a fence'"]))
    until("east says fenced", 30, lambda: {health(lab, edge["cp"]) for edge in lab.edges} == {"fenced"})
    print(f"east was fenced {time.monotonic() - promoted:.1f} s after the promotion began")
    client.terminate()
    client.wait(timeout=20)
    assert lost(f"d/cp={west(lab, 'cp')}") > 0


def test_what_only_east_held_is_written_back(lab, probe):
    """East acknowledged writes that west never saw. The way back finds them, stops, and on approval none of them is lost."""
    _file, _command, lost = probe
    done, _ = runbook("dr_failback", to="east", confirm="east")
    assert done.returncode != 0 and "replay=safe" in done.stdout, done.stdout[-3000:]
    done, _ = runbook("dr_failback", to="east", confirm="east", replay="safe")
    assert done.returncode == 0, done.stdout[-4000:]
    wait_until_ready(lab)
    assert lost(*(f"{edge['zone']}/cp={edge['cp']}" for edge in lab.edges)) == 0
