from __future__ import annotations

from dataclasses import replace

from holdfast.guard import FENCED, MEMBER, PROMOTED, RECOVERING, Guard, GuardBook, replica_of_another

NODES = ("a", "b", "c")


def guard(node: str, region_epoch: int = 1, membership_epoch: int = 1, state: str = MEMBER) -> Guard:
    return Guard(state, "lab", node, region_epoch, membership_epoch, f"inc-{node}")


def book(*guards: Guard | None) -> GuardBook:
    made = GuardBook("lab", NODES)
    for node, g in zip(NODES, guards, strict=False):
        made.learn(node, g)
    return made


def test_a_majority_of_members_votes() -> None:
    made = book(guard("a"), guard("b"), None)
    assert made.config() == (1, 1)
    assert set(made.voters()) == {"a", "b"}
    assert not made.fenced()


def test_blank_recovering_foreign_and_misnamed_nodes_do_not_vote() -> None:
    other_region = replace(guard("b"), region="elsewhere")
    made = book(guard("a"), other_region, guard("a"))
    assert made.config() is None
    assert made.voters() == {}
    made = book(guard("a"), guard("b"), guard("c", state=RECOVERING))
    assert set(made.voters()) == {"a", "b"}


def test_belief_follows_the_majority_not_the_highest() -> None:
    made = book(guard("a", 1, 2), guard("b"), guard("c"))
    assert made.config() == (1, 1)
    assert set(made.voters()) == {"b", "c"}
    made.learn("b", guard("b", 1, 2))
    assert made.config() == (1, 2)
    assert set(made.voters()) == {"a", "b"}


def test_a_raise_under_way_is_told_from_no_majority() -> None:
    made = book(guard("a", 1, 2), guard("b"), guard("c", state=RECOVERING))
    assert made.config() is None
    assert made.raising()
    made.learn("b", guard("b", 1, 2))
    assert not made.raising()
    assert not book(guard("a"), None, None).raising()


def test_only_a_recovering_node_of_this_region_and_epoch_is_sent_stores() -> None:
    made = book(guard("a"), guard("b"), guard("c", state=RECOVERING))
    assert made.healing("c") == guard("c", state=RECOVERING)
    assert made.healing("a") is None
    made.learn("c", guard("c", 2, 1, RECOVERING))
    assert made.healing("c") is None


def test_a_higher_region_epoch_fences_until_a_majority_has_it() -> None:
    made = book(guard("a"), guard("b"), guard("c"))
    made.learn("c", guard("c", 2, 1, FENCED))
    assert made.fenced()
    made.learn("c", guard("c", 2, 1))
    assert made.fenced()
    made.learn("b", guard("b", 2, 1))
    assert not made.fenced()
    assert set(made.voters()) == {"b", "c"}


def test_all_fenced() -> None:
    assert book(*(guard(n, 2, 1, FENCED) for n in NODES)).fenced()
    assert not book(None, None, None).fenced()


def test_ap_uses_any_member_of_the_highest_epoch_seen() -> None:
    made = book(guard("a"))
    assert made.usable("a") is not None
    assert made.usable("b") is None
    made.learn("b", guard("b", 2))
    assert made.usable("a") is None
    assert made.usable("b") is not None


def test_learning_says_what_is_news() -> None:
    made = book()
    assert made.learn("a", guard("a"))
    assert not made.learn("a", guard("a"))
    assert made.version == 1


def test_guard_from_a_scripts_answer() -> None:
    assert Guard.from_fields([b"member", b"lab", b"a", b"1", b"2", b"i"]) == Guard("member", "lab", "a", 1, 2, "i")
    assert Guard.from_fields([b""] * 6) is None
    assert Guard.from_fields([b"member", b"lab", b"a", b"x", b"2", b"i"]) is None


def test_promoted_copies_vote_and_are_unsettled_until_one_is_a_member() -> None:
    made = book(*(guard(n, 2, 1, PROMOTED) for n in NODES))
    assert set(made.voters()) == set(NODES)
    assert made.unsettled_epoch() == 2
    assert guard("a", 2, 1, PROMOTED).expectation()[5] == "promoted"
    made.learn("a", guard("a", 2, 1))
    assert made.unsettled_epoch() == 0
    assert made.usable("b") is not None
    assert book(guard("a"), guard("b"), guard("c")).unsettled_epoch() == 0
    assert book(None, None, None).unsettled_epoch() == 0


def test_replicas_and_copies_of_another_region_are_a_standby() -> None:
    assert book(*(replica_of_another(n) for n in NODES)).withheld() == "standby"
    assert book(*(replace(guard(n), region="elsewhere") for n in NODES)).withheld() == "standby"
    assert book(replica_of_another("a"), guard("b"), guard("c")).withheld() is None
    assert book(replica_of_another("a"), replica_of_another("b"), guard("c")).withheld() is None
    assert book(None, None, None).withheld() is None


def test_the_other_region_at_a_higher_epoch_fences() -> None:
    made = book(*(guard(n, 2) for n in NODES))
    assert not made.learn_peer_epoch(0)
    made.learn_peer_epoch(2)
    assert made.withheld() is None
    assert made.learn_peer_epoch(3)
    assert made.withheld() == "fenced"
    assert made.usable("a") is None
    for node in NODES:
        made.learn(node, guard(node, 4, 1, PROMOTED))
    assert made.withheld() is None
    assert made.usable("a") is not None


def test_two_regions_at_one_epoch_both_close_until_one_is_above_it() -> None:
    made = book(*(guard(n, 2) for n in NODES))
    assert made.served_epoch() == 2
    assert not made.learn_shared_epoch(0)
    assert made.learn_shared_epoch(2)
    assert (made.withheld(), made.usable("a")) == ("two_regions", None)
    for node in NODES:
        made.learn(node, guard(node, 2, 1, FENCED))
    assert (made.withheld(), made.served_epoch()) == ("two_regions", 0)
    other = book(*(guard(n, 2) for n in NODES))
    other.learn_shared_epoch(2)
    other.learn_peer_epoch(3)
    assert (other.withheld(), other.usable("a")) == ("fenced", None), "decided, for the other one"
    for node in NODES:
        made.learn(node, guard(node, 3, 1, FENCED))
    assert made.withheld() == "fenced"
    for node in NODES:
        made.learn(node, guard(node, 3))
    assert made.withheld() is None
    assert made.usable("a") is not None
    for node in NODES:
        made.learn(node, replica_of_another(node))
    assert made.withheld() == "standby"


def test_a_node_that_waits_to_be_confirmed_does_not_count() -> None:
    made = book(*(guard(n) for n in NODES))
    assert made.hold_back("a", True)
    assert not made.hold_back("a", True)
    assert set(made.voters()) == {"b", "c"}
    assert made.withheld() is None
    made.hold_back("b", True)
    assert (made.voters(), made.withheld(), made.usable("a")) == ({}, "unconfirmed", None)
    made.hold_back("b", False)
    assert made.withheld() is None
