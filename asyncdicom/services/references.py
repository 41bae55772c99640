"""References to SOP instances (PS3.3 10.8, SOP Instance Reference Macro), as service classes exchange them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydicom.dataset import Dataset

    from asyncdicom.instances import Instance

__all__ = ["Referable", "Reference", "reference", "reference_item", "references"]


class Reference(NamedTuple):
    """A SOP instance by its class and its own UID."""

    sop_class_uid: str
    sop_instance_uid: str


Referable: TypeAlias = "Instance | tuple[str, str] | Dataset"
"""What names an instance: an :class:`~asyncdicom.Instance`, a pair of UIDs, or a data set that has them."""


def reference(instance: Referable) -> Reference:
    """The reference to an instance. A data set is asked for its SOP Class UID and SOP Instance UID."""
    if isinstance(instance, tuple):  # an Instance begins with the two
        return Reference(*instance[:2])
    return Reference(str(instance.SOPClassUID), str(instance.SOPInstanceUID))


def reference_item(instance: Referable) -> Dataset:
    """A sequence item with Referenced SOP Class UID and Referenced SOP Instance UID."""
    from pydicom.dataset import Dataset  # noqa: PLC0415 - takes long to import

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference(instance)
    return item


def references(items: Iterable[Dataset] | None) -> list[Reference]:
    """The references in the items of a sequence, each once; what an item leaves out is an empty text."""
    found = (
        Reference(str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", "")))
        for item in items or ()
    )
    return list(dict.fromkeys(found))
