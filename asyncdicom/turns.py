"""Who waits for something, by turns of addresses: many from one do not hold up those from others. No I/O, no clock."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Turns"]

_T = TypeVar("_T")


class Turns(Generic[_T]):
    """Items by their addresses, each one once. To add, discard or take one costs the same however many there are."""

    def __init__(self) -> None:
        self._by_address: dict[str, dict[_T, None]] = {}
        """The address that is next first, of each the oldest first; none is empty."""

    def __len__(self) -> int:
        return sum(map(len, self._by_address.values()))

    def __iter__(self) -> Iterator[_T]:
        return chain.from_iterable(self._by_address.values())

    def add(self, address: str, item: _T) -> None:
        """One more, the newest of its address; a new address is behind the others."""
        self._by_address.setdefault(address, {})[item] = None

    def discard(self, address: str, item: _T) -> None:
        """It waits no longer, if it did."""
        neighbours = self._by_address.get(address, {})
        neighbours.pop(item, None)
        if not neighbours:
            self._by_address.pop(address, None)

    def take(self) -> _T:
        """The newest of the address whose turn it is, which is behind the others then.

        The oldest have waited for so long that their peers are the next to give up, so nobody waits behind them.
        """
        address = next(iter(self._by_address))
        neighbours = self._by_address.pop(address)
        item, _ = neighbours.popitem()
        if neighbours:
            self._by_address[address] = neighbours
        return item

    def drop(self) -> _T:
        """The oldest of the address that has most, for when there are too many: nobody shall push out others."""
        address, neighbours = max(self._by_address.items(), key=lambda each: len(each[1]))
        item = next(iter(neighbours))
        self.discard(address, item)
        return item
