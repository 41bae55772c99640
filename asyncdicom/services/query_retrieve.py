"""Query/Retrieve information models, and the options of queries, retrievals and storage (PS3.4 B, C, K, U to JJ).

Tables, and the bytes of SOP class extended negotiation: they are for :class:`~asyncdicom.Context`, and come back as
``association.extended``::

    wanted = QueryOptions(relational=True, fuzzy_names=True)
    async with connect(host, contexts=[Context(STUDY_ROOT_FIND, extended=wanted.encode())]) as association:
        agreed = QueryOptions.decode(association.extended.get(STUDY_ROOT_FIND, b""))

An acceptor gives its context the bytes of what it supports, and :attr:`StorageOptions.answer` for storage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

from asyncdicom.presentation import DEFAULT_TRANSFER_SYNTAXES, Context
from asyncdicom.uids import SERVICE_CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "MODELS",
    "MODEL_OF",
    "USUAL_STORAGE",
    "Model",
    "QueryOptions",
    "RetrieveOptions",
    "StorageOptions",
    "WorklistOptions",
    "retrieval_contexts",
]

_PATIENT_ID, _STUDY_UID, _SERIES_UID, _INSTANCE_UID = 0x00100020, 0x0020000D, 0x0020000E, 0x00080018
_STUDY = {"STUDY": _STUDY_UID, "SERIES": _SERIES_UID, "IMAGE": _INSTANCE_UID}
_PATIENT = {"PATIENT": _PATIENT_ID, **_STUDY}
_PATIENT_STUDY = {"PATIENT": _PATIENT_ID, "STUDY": _STUDY_UID}
_SINGLE = {"": _INSTANCE_UID}


class Model(NamedTuple):
    """An information model for queries and retrievals (PS3.4 C.3, C.6)."""

    name: str
    levels: Mapping[str, int]
    """The values of Query/Retrieve Level (0008,0052) from the top down, and the tag of each level's unique key.

    A model of a single level has no such attribute in its identifiers; its only level is the empty string.
    """
    find: str = ""
    """The SOP class of its C-FIND; empty if there is none, here and below."""
    move: str = ""
    get: str = ""

    @property
    def sop_classes(self) -> tuple[str, ...]:
        """Those of C-FIND, C-MOVE and C-GET that it has."""
        return tuple(uid for uid in (self.find, self.move, self.get) if uid)

    def keys(self, level: str) -> tuple[int, ...]:
        """The unique keys from the top down to a level, its own the last one; KeyError if there is no such level.

        Unless relational queries or retrievals were negotiated, an identifier has a single value for each of those
        above its own (C.4.1.2.1, C.4.2.2.1).
        """
        names = list(self.levels)
        if level not in self.levels:
            raise KeyError(f"{self.name} has no level {level!r}, but {', '.join(map(repr, names))}")
        return tuple(dict.fromkeys(self.levels[name] for name in names[: names.index(level) + 1]))


def _model(name: str, sop_classes: Iterable[str], levels: Mapping[str, int], *operations: str) -> Model:
    return Model(name, levels, **dict(zip(operations or ("find", "move", "get"), sop_classes, strict=True)))


_IMPLANTS = SERVICE_CLASSES["implant template query/retrieve"]

MODELS: tuple[Model, ...] = (
    _model("patient root", SERVICE_CLASSES["patient root"], _PATIENT),
    _model("study root", SERVICE_CLASSES["study root"], _STUDY),
    _model("patient/study only", SERVICE_CLASSES["patient/study only"], _PATIENT_STUDY),
    _model("repository query", SERVICE_CLASSES["repository query"], _STUDY, "find"),
    _model(
        "composite instance root retrieve",
        SERVICE_CLASSES["composite instance root retrieve"],
        {"IMAGE": _INSTANCE_UID, "FRAME": _INSTANCE_UID},
        "move",
        "get",
    ),
    _model(
        "composite instance retrieve without bulk data",
        SERVICE_CLASSES["composite instance retrieve without bulk data"],
        {"IMAGE": _INSTANCE_UID},
        "get",
    ),
    _model("hanging protocol", SERVICE_CLASSES["hanging protocol query/retrieve"], _SINGLE),
    _model("color palette", SERVICE_CLASSES["color palette query/retrieve"], _SINGLE),
    _model("generic implant template", _IMPLANTS[:3], _SINGLE),
    _model("implant assembly template", _IMPLANTS[3:6], _SINGLE),
    _model("implant template group", _IMPLANTS[6:], _SINGLE),
    _model("defined procedure protocol", SERVICE_CLASSES["defined procedure protocol query/retrieve"], _SINGLE),
    _model("protocol approval", SERVICE_CLASSES["protocol approval query/retrieve"], _SINGLE),
    _model("inventory", SERVICE_CLASSES["inventory query/retrieve"], _SINGLE),
)

MODEL_OF: dict[str, Model] = {uid: model for model in MODELS for uid in model.sop_classes}
"""By the SOP class of a C-FIND, C-MOVE or C-GET."""


class QueryOptions(NamedTuple):
    """What may be negotiated for C-FIND of patients, studies, series and instances (PS3.4 C.5.1.1)."""

    relational: bool = False
    """Keys of any level, without the unique keys of the levels above."""
    combined_datetime: bool = False
    """A range of dates and one of times are one range of moments."""
    fuzzy_names: bool = False
    """Person names match by sound, spelling or what else the SCP can do."""
    timezone: bool = False
    """Dates and times are adjusted to Timezone Offset From UTC (0008,0201)."""
    multiframe_conversion: bool = False
    """Query/Retrieve View (0008,0053) chooses between classic and enhanced multi-frame images."""
    empty_values: bool = False
    """A key of two quotation marks finds what has no value; with the next one, since 2023."""
    multiple_values: bool = False
    """A key may have several values."""

    def encode(self) -> bytes:
        """The bytes to propose, or to support, up to the last one that is 1: old peers know only the first."""
        return _encode(self, 1)

    @classmethod
    def decode(cls, information: bytes) -> Self:
        """What was proposed or agreed; a byte that is missing is 0."""
        return cls(*_decode(information, len(cls._fields)))


class RetrieveOptions(NamedTuple):
    """What may be negotiated for C-MOVE and C-GET (PS3.4 C.5.2, C.5.3, Y, Z)."""

    relational: bool = False
    """Unique keys of the level alone; without meaning for Composite Instance Root and Without Bulk Data."""
    multiframe_conversion: bool = False
    """Query/Retrieve View (0008,0053) chooses between classic and enhanced multi-frame images."""

    def encode(self) -> bytes:
        """The bytes to propose, or to support, up to the last one that is 1."""
        return _encode(self, 1)

    @classmethod
    def decode(cls, information: bytes) -> Self:
        """What was proposed or agreed; a byte that is missing is 0."""
        return cls(*_decode(information, len(cls._fields)))


class WorklistOptions(NamedTuple):
    """What may be negotiated for C-FIND of worklists, and of the models of a single level (PS3.4 K.5)."""

    fuzzy_names: bool = False
    """Person names match by sound, spelling or what else the SCP can do."""
    timezone: bool = False
    """Dates and times are adjusted to Timezone Offset From UTC (0008,0201)."""

    def encode(self) -> bytes:
        """The bytes to propose, or to support: three, or four if the last one is 1."""
        return _encode((True, True, *self), 3)

    @classmethod
    def decode(cls, information: bytes) -> Self:
        """What was proposed or agreed; a byte that is missing is 0."""
        return cls(*_decode(information[2:], len(cls._fields)))


class StorageOptions(NamedTuple):
    """What a side tells of its storage (PS3.4 B.3.1): no proposal, but a description of what it does as an SCP."""

    level: int = 3
    """0: keeps some elements, 1: those of type 1 and 2, 2: all, private ones too; 3: this side is an SCU only."""
    signatures: int = 0
    """The level of support for digital signatures, 1 to 3; 0 if it is not told."""
    coercion: int = 2
    """0: changes no element, 1: may change some; 2: this side is an SCU only."""

    def encode(self) -> bytes:
        """The six bytes."""
        return bytes((self.level, 0, self.signatures, 0, self.coercion, 0))

    @classmethod
    def decode(cls, information: bytes) -> Self:
        """What the other side told. A requestor that tells nothing is an SCU; of such an acceptor nothing is known."""
        told = information[:6:2]
        return cls(*told, *cls()[len(told) :])

    def answer(self, offered: bytes) -> bytes:
        """For the ``extended`` of an acceptor's context: its own description, whatever the requestor's is."""
        return self.encode()[: len(offered)]


def _encode(flags: Iterable[bool], least: int) -> bytes:
    information = bytes(flags)
    return information.rstrip(b"\0").ljust(least, b"\0")


def _decode(information: bytes, length: int) -> list[bool]:
    return [byte == 1 for byte in information[:length]]


_USUAL = """
    1 1.1 1.1.1 1.2 1.2.1 1.3 1.3.1 2 2.1 2.2 3 3.1 4 4.1 4.2 4.3 4.4 5 6 6.1 6.2 7 7.1 7.2 7.3 7.4
    9.1.1 9.1.2 9.1.3 9.1.4 9.2.1 9.3.1 9.4.1 9.4.2 9.5.1 9.6.1
    11.1 11.2 11.3 11.4 11.5 11.8 12.1 12.1.1 12.2 12.2.1 12.3 13.1.1 13.1.2 13.1.3 13.1.4 13.1.5 14.1 14.2
    20 30 40 66 66.1 66.2 66.3 66.4 66.5 66.6 67 68.1 68.2
    77.1.1 77.1.1.1 77.1.2 77.1.2.1 77.1.3 77.1.4 77.1.4.1 77.1.5.1 77.1.5.2 77.1.5.3 77.1.5.4 77.1.5.7 77.1.6 77.1.7
    78.1 78.2 78.3 78.4 78.5 78.6 78.7 78.8 79.1 80.1 81.1 82.1
    88.11 88.22 88.33 88.34 88.35 88.40 88.50 88.59 88.65 88.67 88.68 88.69 88.70 88.71 88.72 88.73 88.76 91.1
    104.1 104.2 104.3 128 128.1 130 131
    481.1 481.2 481.3 481.4 481.5 481.6 481.7 481.8 481.9
"""
USUAL_STORAGE: tuple[str, ...] = tuple(f"1.2.840.10008.5.1.4.1.1.{each}" for each in _USUAL.split())
"""The 127 storage SOP classes that archives hold, in the order of their UIDs: left out are those of security, of
material testing, of protocols, RT's second generation, and most that are retired."""


def retrieval_contexts(
    sop_classes: Iterable[str] = USUAL_STORAGE, transfer_syntaxes: Iterable[str] = DEFAULT_TRANSFER_SYNTAXES
) -> list[Context]:
    """What to propose beside the model of a C-GET: contexts in which this side takes instances (PS3.4 C.5.3)."""
    syntaxes = tuple(transfer_syntaxes)
    return [Context(uid, syntaxes, scu=False, scp=True) for uid in sop_classes]
