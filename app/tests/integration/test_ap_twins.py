"""Two values under one version are settled alike everywhere; a restamp that was copied removes what it replaced."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis
from cluster import App, Cluster, wait_for
from test_ap import ZONES, contents, converged, start
from test_ap_divergence import BOUND, PERIOD, checks
from test_parked import far_ahead

from holdfast import divergence, scripts
from holdfast.guard import Guard

FIELDS = ("state", "region", "node", "region_epoch", "membership_epoch", "incarnation")


def broken(build: str) -> tuple[str, str]:
    return str(Path(__file__).with_name("broken_ap.py")), build


def winner(*contents_of_one_version: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    return max(contents_of_one_version, key=lambda c: divergence.rank(*c))


def rot(client: redis.Redis, key: str, kind: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Put another content under the version that is there; returns the one that was there."""
    before = client.hmget(f"ap:{key}", "k", "v")
    client.hset(f"ap:{key}", mapping={"k": kind, "v": value})
    return before[0], before[1]


def twins(replicators: list[App]) -> float:
    pairs = [(r, o) for r, z in zip(replicators, ZONES, strict=True) for o in ZONES if o != z]
    return sum(r.metric(f'ap_two_values_total{{node="{o}"}}') for r, o in pairs)


def told(replicators: list[App]) -> set[str]:
    lines = [e for r in replicators for e in r.entries() if e["event"] == "TWO_VALUES_ONE_VERSION"]
    return {e["key"] for e in lines if "key" in e}


def rotten(apps: list[App], cluster: Cluster) -> dict[bytes, tuple[bytes, bytes]]:
    """Rotten bits on db_g2: two values and a tombstone. Returns what must be everywhere in the end."""
    for key in ("one", "two", "deleted", "large"):
        assert apps[0].write(key, "x" * (300_000 if key == "large" else 10)).status == 200
    assert apps[0].delete("deleted").status == 200
    wait_for("convergence", lambda: converged(cluster) and len(contents(cluster, "db_g3")) == 4)
    client, wanted = cluster.nodes["db_g2"].client(), {}
    for key, value in (("one", b"rot"), ("two", b"other rot"), ("deleted", b"back?"), ("large", b"x" * 299_999 + b"y")):
        before = rot(client, key, b"v", value)
        wanted[f"ap:{key}".encode()] = winner(before, (b"v", value))
    return wanted


def test_two_values_under_one_version_are_found_reported_and_one_stays_everywhere(cluster: Cluster) -> None:
    apps, replicators = start(cluster, DIVERGENCE_CHECK_SEC=PERIOD)
    wanted = rotten(apps, cluster)
    assert wanted[b"ap:deleted"] == (b"d", b""), "a delete does not come undone"
    wait_for("settled", lambda: converged(cluster), BOUND, pause=0.2)
    assert {k: (v[b"k"], v[b"v"]) for k, v in contents(cluster, "db_g1").items()} == wanted
    seen = checks(replicators)
    wait_for("counted", lambda: checks(replicators) > seen)
    count = twins(replicators)
    assert 4 <= count <= 8, "each on the one node that was wrong, or on the two others"
    seen = checks(replicators)
    wait_for("more checks", lambda: checks(replicators) >= seen + 3)
    assert twins(replicators) == count, "settled once"
    assert told(replicators) == {"one", "two", "deleted", "large"}
    lines = [e for r in replicators for e in r.entries() if e["event"] == "TWO_VALUES_ONE_VERSION"]
    assert sum(e["entries"] for e in lines if "entries" in e) == count


def test_negative_control_digests_without_values_do_not_see_it(cluster: Cluster) -> None:
    apps = [cluster.run("serve", "ap", z) for z in ZONES]
    launch = broken("digest_without_values")
    replicators = [cluster.run("replicate", "ap", z, launch, DIVERGENCE_CHECK_SEC=PERIOD) for z in ZONES]
    rotten(apps, cluster)
    time.sleep(divergence.LAG_MS / 1000 + 2)
    seen = checks(replicators)
    wait_for("more checks", lambda: checks(replicators) >= seen + 4)
    assert told(replicators) <= {"deleted"}, "the kind is in them, the value is not"
    values = [contents(cluster, z)[b"ap:one"] for z in ZONES]
    assert values[0] == values[2] != values[1]


def restamped(cluster: Cluster, launch: tuple[str, ...]) -> tuple[redis.Redis, set[bytes]]:
    """db_g3 is not replicating while db_g1 restamps, and finds the outbox trimmed. Returns it, and one more parked."""
    apps = [cluster.run("serve", "ap", z) for z in ZONES]
    replicators = [cluster.run("replicate", "ap", z, launch) for z in ZONES]
    origin, reader = cluster.nodes["db_g1"].client(), cluster.nodes["db_g3"].client()
    assert apps[0].write("other", "now").status == 200
    wait_for("convergence", lambda: converged(cluster) and len(contents(cluster, "db_g3")) == 1)
    origin.hset("holdfast:ap", "hlc", far_ahead(cluster))
    for key in ("a", "b", "b"):
        assert apps[0].write(key, "future").status == 200
    wait_for("parked", lambda: all(cluster.nodes[z].client().hlen("holdfast:parked") == 3 for z in ZONES[1:]))
    replicators[2].stop()
    futures = [name.split(b"|", 1) for name in sorted(reader.hkeys("holdfast:parked"))]
    guard = Guard.from_fields(origin.hmget("holdfast:guard", *FIELDS))
    assert guard is not None
    rows = [part for version, key in futures for part in (key, version, b"v", b"future")]
    keys = [scripts.GUARD, scripts.OUTBOX, scripts.AP_STATE, scripts.PARKED]
    source = scripts.AP_RESTAMP.source.decode()
    assert origin.eval(source, len(keys), *keys, *guard.expectation(), 500, len(futures), *rows)[0] == b"OK"
    wait_for("the zone that replicates has it", lambda: contents(cluster, "db_g2") == contents(cluster, "db_g1"))
    assert cluster.nodes["db_g2"].client().hlen("holdfast:parked") == 0
    # One more of the same key and origin that nobody has written anew.
    version, key = futures[0]
    kept = b"%08x.%012x%04x.db_g1|%s" % (1, int(version[9:21], 16) + 7, 0, key)
    reader.hset("holdfast:parked", kept, reader.hget("holdfast:parked", b"|".join(futures[0])))
    wait_for("the outbox is trimmed", lambda: origin.xtrim("holdfast:outbox", 0, approximate=False) == 0)
    again = cluster.run("replicate", "ap", "db_g3", launch)
    wait_for("merged in full", lambda: again.metric('ap_full_merges_total{node="db_g1"}') == 1)
    return reader, {kept}


def test_what_a_restamp_replaced_goes_away_also_where_it_was_copied_in_a_full_merge(cluster: Cluster) -> None:
    reader, kept = restamped(cluster, ("-m", "holdfast"))
    assert set(reader.hkeys("holdfast:parked")) == kept, "only what was replaced is gone"
    assert contents(cluster, "db_g3") == contents(cluster, "db_g1")
    assert len(contents(cluster, "db_g3")[b"ap:b"][b"rep"].split()) == 2


@pytest.mark.parametrize("build", ["copies_without_marks"])
def test_negative_control_a_copy_without_marks_leaves_it_parked(cluster: Cluster, build: str) -> None:
    reader, kept = restamped(cluster, broken(build))
    assert len(reader.hkeys("holdfast:parked")) == 3 + len(kept)


def test_a_version_that_was_replaced_is_never_minted_again(cluster: Cluster) -> None:
    app, client = cluster.run("serve", "ap"), cluster.nodes["db_g1"].client()
    at = far_ahead(cluster)[:12]

    def minted(replaced: str) -> str:
        client.hset("holdfast:ap", "hlc", f"{at}0000")
        client.delete("ap:k")
        if replaced:
            client.hset("ap:k", "rep", replaced)
        version: str = app.write("k", "x").json["version"]
        return version

    first = minted("")
    assert first == f"00000001.{at}0001.db_g1"
    assert minted(first) == f"00000001.{at}0002.db_g1"
