"""What a particular peer is known to do otherwise than the standard has it: named, and off unless asked for.

What can be tolerated from everybody is tolerated without being asked; here is only what would be wrong with others.
Knows nothing of bytes and associations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .command import Category, Status

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["NO_QUIRKS", "Quirks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """How to get along with one peer; given to :func:`~asyncdicom.connect`."""

    assume_roles: bool = False
    """It leaves out the answer to SCP/SCU role selection and means that what was proposed is granted (PS3.7 D.3.3.4):
    some archives send C-GET's instances all the same."""
    duplicates_are_kept: bool = False
    """It answers a C-STORE of an instance that it has with 0111H, duplicate SOP instance: a warning then, no failure,
    since the instance is there."""
    any_response_id: bool = False
    """Its responses name a wrong Message ID: one of the right kind is taken while just one request waits."""
    never_cancel: bool = False
    """It closes the association on a C-CANCEL: none is sent, and what is not wanted any more is read and dropped."""
    no_universal_matching: bool = False
    """It knows no ``*`` that stands for everything in a query: such keys go out empty, which means the same."""
    no_wildcards_in_dates: bool = False
    """It refuses dates and times with wildcards in a query: such keys go out empty, and match more."""
    omit_keys: tuple[int, ...] = ()
    """Tags that a query must not have, at any level of it: it answers nothing, or a failure, when it meets them."""

    def judged(self, status: Status) -> Status:
        """What a C-STORE's status means."""
        if self.duplicates_are_kept and status == Status.DUPLICATE_SOP_INSTANCE:
            return _Warning(status, **vars(status))
        return status

    def mended(self, identifier: Dataset) -> Dataset:
        """What a C-FIND sends in place of an identifier; the identifier itself where nothing is to be done."""
        if not (self.no_universal_matching or self.no_wildcards_in_dates or self.omit_keys):
            return identifier
        mended = type(identifier)()
        for element in identifier:
            if element.tag in self.omit_keys:
                continue
            if element.VR == "SQ":
                mended.add_new(element.tag, "SQ", [self.mended(item) for item in element.value or ()])
            elif self._is_refused(element.VR, str(element.value)):
                mended.add_new(element.tag, element.VR, "")
            else:
                mended.add(element)
        mended.set_original_encoding(*identifier.original_encoding)
        return mended

    def _is_refused(self, vr: str, value: str) -> bool:
        if self.no_universal_matching and value and not value.strip("*"):
            return True
        return self.no_wildcards_in_dates and vr in ("DA", "TM", "DT") and ("*" in value or "?" in value)


class _Warning(Status):
    """A status that is no failure at this peer."""

    @property
    def category(self) -> Category:
        """Whatever its code says."""
        return Category.WARNING


NO_QUIRKS = Quirks()
"""A peer that keeps to the standard."""
