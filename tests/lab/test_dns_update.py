"""The public names on somebody else's primary name server, a real BIND: signed updates that take effect as a whole, for one mover only."""

import threading
import time

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.tsig
import dns.update
import pytest
from named import ADDRESSES, EAST, MODULE, MOVER, OTHER, WEST, Named


@pytest.fixture
def blank(tmp_path):
    with Named(tmp_path) as server:
        yield server


@pytest.fixture
def named(blank):
    """One that answers for east under epoch 1."""
    blank.apply(moves=False)
    return blank


def refused(server, *arguments, **options) -> str:
    """Why; and nothing that anybody can see has changed."""
    before = server.shows()
    with pytest.raises(MODULE.Refused) as problem:
        server.apply(*arguments, **options)
    assert server.shows() == before
    return str(problem.value)


def test_the_first_run_puts_the_names_there_and_the_second_changes_nothing(blank):
    assert "holds no region yet" in refused(blank, "west", 2)
    before = blank.shows()
    assert blank.apply(moves=False, check_mode=True)["changed"]
    assert blank.shows() == before
    done = blank.apply(moves=False)
    assert done["changed"] and "cp 3 A 192.0.2.11" in done["diff"]["after"]
    assert blank.shows() == EAST
    again = blank.apply("west", 7, moves=False)  # another initial region moves nothing
    assert not again["changed"] and again["diff"]["before"] == again["diff"]["after"]
    assert blank.shows() == EAST


def test_a_move_takes_all_names_at_once_and_a_second_one_nothing(named):
    assert named.apply("west", 2, check_mode=True)["changed"]
    assert named.shows() == EAST
    assert named.apply("west", 2) | {"diff": 0} == {"changed": True, "region": "west", "epoch": 2, "diff": 0}
    assert named.shows() == WEST
    assert not named.apply("west", 2)["changed"]
    assert not named.apply("east", 1, moves=False)["changed"]


def test_edges_that_are_left_out_or_come_back_are_the_only_change(named):
    fewer = {**ADDRESSES, "east": ["192.0.2.12"]}
    assert named.apply(moves=False, addresses=fewer)["changed"]
    assert named.shows() == {"cp": ["192.0.2.12"], "ap": ["192.0.2.12"], "epoch": ["east 1"]}
    assert named.apply(moves=False)["changed"] and named.shows() == EAST
    assert named.apply(moves=False, ttl_seconds=4)["changed"]
    assert "no edge for region east" in refused(named, moves=False, addresses={"west": ["198.51.100.11"]})


@pytest.mark.parametrize(("region", "epoch", "said"), [("north", 2, "is taken"), ("east", 1, "is below 2"), ("west", 1, "is below 2")])
def test_an_epoch_that_is_not_above_the_held_one_is_refused(named, region, epoch, said):
    named.apply("west", 2)
    with pytest.raises(MODULE.Taken) as problem:
        named.apply(region, epoch)
    assert said in str(problem.value) and "dns_failover_epoch 3 or higher" in str(problem.value) and problem.value.held == 2
    assert named.shows() == WEST


def two_movers(server, monkeypatch, *moves, **options):
    """Both have read what is held before either sends its update. What each was told."""
    met, told = threading.Barrier(len(moves)), {}
    read = MODULE.Primary.records

    def records(self):
        found = read(self)
        if not getattr(self, "has_met", False):
            self.has_met = True
            met.wait(timeout=60)
        return found

    monkeypatch.setattr(MODULE.Primary, "records", records)

    def move(number, region, epoch):
        try:
            told[number] = server.apply(region, epoch, **options)["changed"]
        except MODULE.Refused as problem:
            told[number] = str(problem)

    threads = [threading.Thread(target=move, args=(number, *one)) for number, one in enumerate(moves)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [told[number] for number in range(len(moves))]


def test_of_two_movers_at_once_one_wins_and_the_other_is_told(named, monkeypatch):
    told = two_movers(named, monkeypatch, ("west", 2), ("north", 2))
    assert sorted(map(str, told))[1] == "True" and "Epoch 2 is taken" in sorted(map(str, told))[0], told
    won = ("west", "north")[told.index(True)]
    assert named.shows() == {"cp": ADDRESSES[won], "ap": ADDRESSES[won], "epoch": [f"{won} 2"]}


def test_two_hosts_that_make_the_same_move_are_both_content(named, monkeypatch):
    assert sorted(two_movers(named, monkeypatch, ("west", 2), ("west", 2))) == [False, True]
    assert named.shows() == WEST


def test_of_two_first_runs_one_begins_and_the_other_keeps_that(blank, monkeypatch):
    assert sorted(two_movers(blank, monkeypatch, ("west", 2), ("north", 2), moves=False)) == [False, True]
    [held] = blank.shows()["epoch"]
    assert blank.shows()["cp"] == ADDRESSES[held.split()[0]]


def test_control_without_the_prerequisite_both_would_be_content(named, monkeypatch):
    monkeypatch.setattr(dns.update.UpdateMessage, "present", lambda *_: None)
    assert two_movers(named, monkeypatch, ("west", 2), ("north", 2)) == [True, True]


def test_a_key_that_the_server_does_not_take_shows_before_it_is_needed(named):
    for options in ({}, {"check_mode": True}):
        said = refused(named, moves=False, key_secret=OTHER, **options)
        assert "dns_failover_update_key_secret is not the secret" in said and OTHER not in said
        assert "does not know the key stranger." in refused(named, moves=False, key_name="stranger", **options)
        for name in ("faces", "partial"):
            said = refused(named, moves=False, key_name=name, key_secret=OTHER, **options)
            assert "REFUSED" in said and f"must let the key {name}. update A, AAAA, CNAME and TXT" in said


def test_a_clock_that_is_off_is_named(named, monkeypatch):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 1000)
    assert "chronyc tracking" in refused(named, "west", 2)


def test_a_server_without_the_zone_is_named(named):
    assert "has no zone for epoch.kv.elsewhere.: it says REFUSED" in refused(named, zone="elsewhere", domain="kv.elsewhere")
    assert "or dns_failover_update_zone" in refused(named, "west", 2, zone="kv.example")


def test_what_somebody_wrote_by_hand_is_not_guessed_at(named):
    update = dns.update.Update("example.")
    update.use_tsig(dns.tsig.Key("mover", MOVER, "hmac-sha256"))
    update.add("epoch.kv", 3, "TXT", '"west 9"')
    dns.query.tcp(update, "127.0.0.1", port=named.port)
    assert "and not one text like" in refused(named, "west", 10)


def test_a_server_that_is_down_leaves_the_old_answer_and_the_same_run_goes_on(named):
    named.stop()
    with pytest.raises(MODULE.Refused, match=r"gives no answer on TCP port \d+.*Nothing was changed. Start it, or open the way"):
        named.apply("west", 2)
    named.start()
    assert named.shows() == EAST
    assert named.apply("west", 2)["changed"] and named.shows() == WEST


def test_an_answer_that_got_lost_is_found_out_about(named, monkeypatch):
    real, lost = dns.query.tcp, []

    def tcp(message, *arguments, **options):
        answer = real(message, *arguments, **options)
        if isinstance(message, dns.update.UpdateMessage) and not lost:
            lost.append(answer)
            raise dns.exception.Timeout
        return answer

    monkeypatch.setattr(dns.query, "tcp", tcp)
    assert named.apply("west", 2)["changed"] and lost and named.shows() == WEST


def test_when_every_answer_gets_lost_nobody_claims_to_know(named, monkeypatch):
    real = dns.query.tcp

    def tcp(message, *arguments, **options):
        if isinstance(message, dns.update.UpdateMessage):
            raise dns.exception.Timeout
        return real(message, *arguments, **options)

    monkeypatch.setattr(dns.query, "tcp", tcp)
    assert "It is not known whether it took the update" in refused(named, "west", 2)


def test_a_forged_answer_does_not_count(named, monkeypatch):
    real = dns.query.tcp

    def tcp(message, *arguments, **options):
        bare = dns.message.make_query(message.question[0].name, message.question[0].rdtype)
        answer = real(bare, *arguments, **options)
        answer.flags |= dns.flags.AA
        return answer

    monkeypatch.setattr(dns.query, "tcp", tcp)
    assert "answers without a signature" in refused(named, "west", 2)


def test_a_server_that_has_not_fetched_the_zone_is_named(named):
    named.apply("west", 2)
    assert MODULE.behind(["127.0.0.1", "127.0.0.9"], named.port, "kv.example", ("west", 2), 2) == ["127.0.0.9"]
    assert MODULE.behind(["127.0.0.1"], named.port, "kv.example", ("west", 3), 0.5) == ["127.0.0.1"]
