"""Who waits for something, by turns of addresses: many from one do not hold up those from others. No I/O, no clock."""

from __future__ import annotations

import ipaddress
from itertools import chain
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Turns"]

_T = TypeVar("_T")


class Turns(Generic[_T]):
    """Items by their addresses, each one once. To add, discard or take one costs the same however many there are.

    IPv6 addresses are one if their first 64 bits are the same: who has one of them has them all (RFC 4291 2.5.1).
    """

    def __init__(self) -> None:
        self._by_address: dict[str, dict[_T, None]] = {}
        """The address that is next first, of each the oldest first; none is empty."""

    def __len__(self) -> int:
        return sum(map(len, self._by_address.values()))

    def __iter__(self) -> Iterator[_T]:
        return chain.from_iterable(self._by_address.values())

    def add(self, address: str, item: _T) -> None:
        """One more, the newest of its address; a new address is behind the others."""
        self._by_address.setdefault(_owner(address), {})[item] = None

    def discard(self, address: str, item: _T) -> None:
        """It waits no longer, if it did."""
        owner = _owner(address)
        neighbours = self._by_address.get(owner, {})
        neighbours.pop(item, None)
        if not neighbours:
            self._by_address.pop(owner, None)

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
        owner, neighbours = max(self._by_address.items(), key=lambda each: len(each[1]))
        item = next(iter(neighbours))
        del neighbours[item]
        if not neighbours:
            del self._by_address[owner]
        return item


def _owner(address: str) -> str:
    """What addresses have in common that come by turns."""
    if ":" not in address or "." in address:  # IPv4, which IPv6 sockets write ::ffff:192.0.2.1
        return address
    return str(int(ipaddress.IPv6Address(address)) >> 64)
