"""Who waits, by turns of addresses: in which order they come, and who is dropped."""

from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.turns import Turns


def waiting(*items):
    """Each with the first letter of its name as its address."""
    turns = Turns()
    for item in items:
        turns.add(item[0], item)
    return turns


def test_addresses_come_in_turn_and_of_each_the_newest_first():
    turns = waiting("a1", "a2", "b1", "a3", "c1", "b2")
    assert [turns.take() for _ in range(len(turns))] == ["a3", "b2", "c1", "a2", "b1", "a1"]


def test_the_oldest_of_the_address_that_has_most_is_dropped():
    turns = waiting("b1", "a1", "a2", "a3", "b2")
    assert [turns.drop() for _ in range(3)] == ["a1", "b1", "a2"]
    assert list(turns) == ["b2", "a3"]


def test_an_address_that_comes_again_is_behind_the_others():
    turns = waiting("a1", "b1")
    turns.discard("a", "a1")
    turns.add("a", "a2")
    assert list(turns) == ["b1", "a2"]


def test_who_has_many_ipv6_addresses_has_one_turn():
    turns = Turns()
    for address in (
        "2001:db8::1",
        "2001:db8::2",
        "::ffff:192.0.2.1",
        "::ffff:192.0.2.2",
        "2001:db8:0:1::1",
        "fe80::1%eth0",
    ):
        turns.add(address, address)
    turns.discard("2001:db8::2", "2001:db8::2")
    assert [turns.take() for _ in range(4)] == [
        "2001:db8::1",
        "::ffff:192.0.2.1",
        "::ffff:192.0.2.2",
        "2001:db8:0:1::1",
    ]


def test_who_does_not_wait_may_be_discarded():
    turns = waiting("a1")
    turns.discard("a", "a2")
    turns.discard("b", "b1")
    assert list(turns) == ["a1"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.sampled_from(["add", "discard", "take", "drop"])))
)
def test_nobody_is_lost_and_nothing_is_kept_of_who_has_gone(steps):
    turns, expected = Turns(), set()
    for address, item, step in steps:
        if step in ("add", "discard"):
            getattr(turns, step)(address, (address, item))
            getattr(expected, step)((address, item))
        elif expected:
            expected.remove(getattr(turns, step)())
        assert (set(turns), len(turns)) == (expected, len(expected))
        assert set(turns._by_address) == {address for address, _ in expected}
