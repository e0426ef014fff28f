"""A question takes entries from the tables, and its answer goes back to them."""

from __future__ import annotations

from rcmgr import Rate
from rcmgr.counting.leases import LeaseTable, PlaceTable
from rcmgr.fleet.exchange import MOST_ENTRIES, Answer, LeasedRate, Question, SharedPlaces


def tables() -> tuple[LeasedRate, SharedPlaces]:
    rate = LeasedRate("peer_rate", Rate(2.0, 10), LeaseTable(10, 2.0, nodes=5), 1000)
    places = SharedPlaces("peer.connections", 8, PlaceTable(8, nodes=4), lambda key: 3)
    rate.table.find_again()
    places.table.find_again()
    return rate, places


def test_it_is_one_call_of_the_script() -> None:
    rate, places = tables()
    assert rate.table.try_consume("é")
    assert places.table.may_take(b"\xff", 0)
    question = Question([rate], [places])
    assert question
    assert question.keys("p:") == [b"p:nodes", b"p:rate:peer_rate", b"p:held:peer.connections:\xff"]
    assert question.arguments("n") == [
        "n", 5_000_000, 1, 1000, 500_000_000, 5_000_000_000, 1000,
        1, 1, "é".encode(), 2, 1, 1, 3]
    question.settle([4, 100, 2])
    assert Answer.of([b"0", 1, 7, 8]) == Answer(1, True, (7, 8))
    assert rate.table.portion("é") == 1 + 4
    assert places.table.may_take(b"\xff", 4)  # 8 - 2 - 3 are free, and 2 of them are its advance
    assert not places.table.may_take(b"\xff", 5)


def test_it_is_short_and_each_table_comes_first_in_turn() -> None:
    rate, places = tables()
    for number in range(20):
        rate.table.try_consume(b"%d" % number)
        places.table.may_take(b"%d" % number, 0)
    assert len(Question([rate], [places], 0).arguments("n")) == 3 + 4 + 1 + 4 * MOST_ENTRIES + 1
    assert len(Question([rate], [places], 1).arguments("n")) == 3 + 1 + 1 + MOST_ENTRIES


def test_the_answer_says_in_microseconds_when_the_bucket_is_full() -> None:
    rate = LeasedRate(
        "peer_rate", Rate(2.0, 10), LeaseTable(10, 2.0, nodes=5, clock=lambda: 0), 1000)
    rate.table.find_again()
    assert rate.table.try_consume(b"x")
    Question([rate], []).settle([0, 100])
    assert rate.table.time_until(b"x", 10) == 1e-4


def test_a_rate_is_told_in_ticks() -> None:
    rate = LeasedRate("rate", Rate(3.0, 7), LeaseTable(7, 3.0), 1000)
    per_microsecond, cost, burst = rate.ticks
    assert per_microsecond > 1000  # a third of a second has no whole number of nanoseconds
    assert abs(cost / per_microsecond - 1e6 / 3) < 0.001
    assert burst == 7 * cost


def test_each_key_gets_its_own_answer() -> None:
    rate, _ = tables()
    other = LeasedRate("other", Rate(2.0, 10), LeaseTable(10, 2.0, nodes=5), 1000)
    other.table.find_again()
    for key in (b"a", b"b"):
        assert rate.table.try_consume(key)
    assert other.table.try_consume(b"a")
    question = Question([rate, other], [])
    assert question
    assert question.arguments("n")[2] == 2
    question.settle([4, 100, 5, 200, 6, 300])
    assert [rate.table.portion(b"a"), rate.table.portion(b"b"), other.table.portion(b"a")] == [
        5, 6, 7]


def test_an_idle_node_asks_nothing() -> None:
    rate, places = tables()
    assert not Question([rate], [places])


def test_without_an_answer_places_are_told_again() -> None:
    rate, places = tables()
    rate.table.try_consume(b"x")
    places.table.may_take(b"x", 0)
    Question([rate], [places]).abandon()
    again = Question([rate], [places])
    assert again.arguments("n")[-2:] == [1, 3]
    assert again.arguments("n")[3] == 0  # the advance is not told twice
