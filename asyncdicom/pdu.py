"""The seven protocol data units of PS3.8 9.3 and their items (PS3.8 9.3, PS3.7 D.3.3) to and from bytes.

Every PDU is a frozen dataclass with ``encode()``, the whole PDU, and ``decode(body)``, from the bytes after the
six-byte header. All numbers are big endian. Decoding follows PS3.8 9.3.1: reserved fields are not tested, items and
sub-items that are not known are skipped; what cannot be understood is a :class:`~asyncdicom.errors.ProtocolError`.

The hot path does not come here for P-DATA-TF: :mod:`asyncdicom.receive_buffer` reads its headers in place, and
:mod:`asyncdicom.dimse` writes them; :class:`PDataTF` is for everything that is not in a hurry.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from .errors import AbortReason, ProtocolError
from .presentation import AsyncOperationsWindow, ContextResult, ExtendedNegotiation, ProposedContext, RoleSelection
from .uids import APPLICATION_CONTEXT, clean_uid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "MAX_ASSOCIATE_LENGTH",
    "MAX_ITEMS",
    "PDU",
    "PDU_HEADER",
    "PDV_HEADER",
    "Abort",
    "AssociateAC",
    "AssociateRJ",
    "AssociateRQ",
    "CommonExtendedNegotiation",
    "PDataTF",
    "PduType",
    "PresentationDataValue",
    "ReleaseRP",
    "ReleaseRQ",
    "UserIdentity",
    "UserInformation",
    "check_ae_title",
    "check_pdu_lengths",
    "decode_pdu",
]

PDU_HEADER = struct.Struct(">BxI")
"""PDU type, reserved, length of what follows (PS3.8 9.3.1)."""

PDV_HEADER = struct.Struct(">IBB")
"""Item length, presentation context ID, message control header (PS3.8 9.3.5.1, E.2)."""

MAX_ASSOCIATE_LENGTH = 1 << 20
"""Bytes of an A-ASSOCIATE-RQ or -AC that are taken; DCMTK's limit."""

MAX_ITEMS = 20_000
"""Items and sub-items of one A-ASSOCIATE PDU that are read: 128 contexts with 150 transfer syntaxes each. Without a
limit a request of 1 MiB made of empty items would keep the event loop busy for half a second."""

_ITEM_HEADER = struct.Struct(">BxH")
_TWO_SHORTS = struct.Struct(">HH")
_SHORT = struct.Struct(">H")
_LONG = struct.Struct(">I")
_AE_TITLE_LENGTH = 16
_MAX_ITEM = 0xFFFF
_MAX_UID = 256
_ASSOCIATE_FIXED = 68  # version 2, reserved 2, AE titles 32, reserved 32
_SHORTEST_PDU = 1024  # a command set is a few hundred bytes; below it every message would be in pieces
_MAX_RELATED = 1000  # more general SOP classes than there are SOP classes
_PDV_OVERHEAD = 2  # context ID and message control header are counted by the PDV's length


class PduType(enum.IntEnum):
    """PS3.8 9.3.1."""

    A_ASSOCIATE_RQ = 0x01
    A_ASSOCIATE_AC = 0x02
    A_ASSOCIATE_RJ = 0x03
    P_DATA_TF = 0x04
    A_RELEASE_RQ = 0x05
    A_RELEASE_RP = 0x06
    A_ABORT = 0x07


class _Item(enum.IntEnum):
    """Items (PS3.8 9.3.2, 9.3.3) and user information sub-items (PS3.8 D.1, PS3.7 D.3.3)."""

    APPLICATION_CONTEXT = 0x10
    PRESENTATION_CONTEXT_RQ = 0x20
    PRESENTATION_CONTEXT_AC = 0x21
    ABSTRACT_SYNTAX = 0x30
    TRANSFER_SYNTAX = 0x40
    USER_INFORMATION = 0x50
    MAXIMUM_LENGTH = 0x51
    IMPLEMENTATION_CLASS_UID = 0x52
    ASYNC_OPERATIONS_WINDOW = 0x53
    ROLE_SELECTION = 0x54
    IMPLEMENTATION_VERSION_NAME = 0x55
    EXTENDED_NEGOTIATION = 0x56
    COMMON_EXTENDED_NEGOTIATION = 0x57
    USER_IDENTITY_RQ = 0x58
    USER_IDENTITY_AC = 0x59


class CommonExtendedNegotiation(NamedTuple):
    """SOP class common extended negotiation (PS3.7 D.3.3.6); only in requests, never answered."""

    sop_class_uid: str
    service_class_uid: str
    related_general_sop_class_uids: tuple[str, ...] = ()


class UserIdentity(NamedTuple):
    """User identity of a request (PS3.7 D.3.3.7)."""

    type: int
    """1 user name, 2 user name and passcode, 3 Kerberos ticket, 4 SAML assertion, 5 JSON web token."""
    primary: bytes
    secondary: bytes = b""
    """The passcode of type 2, else empty."""
    positive_response_requested: bool = False

    @classmethod
    def of_user(cls, name: str, passcode: str | None = None, *, positive_response_requested: bool = False) -> Self:
        """A user name, type 1, or with a passcode, type 2; both in UTF-8."""
        if passcode is None:
            return cls(1, name.encode(), b"", positive_response_requested)
        return cls(2, name.encode(), passcode.encode(), positive_response_requested)

    def __repr__(self) -> str:
        """Without the fields: they are credentials, and representations end in logs."""
        return f"UserIdentity(type={self.type}, primary=<{len(self.primary)} bytes>)"


@dataclass(frozen=True, slots=True)
class UserInformation:
    """The user information item (PS3.8 9.3.2.3), its sub-items as fields."""

    maximum_length: int | None = None
    """Longest P-DATA-TF length field that its sender takes (PS3.8 D.1), 0 for no limit; None when it was not sent."""
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    """Empty when it was not sent."""
    async_operations_window: AsyncOperationsWindow | None = None
    roles: tuple[RoleSelection, ...] = ()
    extended: tuple[ExtendedNegotiation, ...] = ()
    common_extended: tuple[CommonExtendedNegotiation, ...] = ()
    user_identity: UserIdentity | None = None
    user_identity_response: bytes | None = field(default=None, repr=False)
    """The acceptor's answer to a user identity; None when there is none. It may be a ticket, so it is not shown."""

    def encode(self) -> bytes:
        """The item with its header; sub-items in ascending order, for receivers that expect one."""
        return _item(_Item.USER_INFORMATION, b"".join(self._sub_items()))

    def _sub_items(self) -> Iterator[bytes]:
        if self.maximum_length is not None:
            yield _item(_Item.MAXIMUM_LENGTH, _LONG.pack(self.maximum_length))
        if self.implementation_class_uid:
            yield _item(_Item.IMPLEMENTATION_CLASS_UID, self.implementation_class_uid.encode("ascii"))
        if self.async_operations_window is not None:
            yield _item(_Item.ASYNC_OPERATIONS_WINDOW, _TWO_SHORTS.pack(*self.async_operations_window))
        for role in self.roles:
            yield _item(_Item.ROLE_SELECTION, _counted(role.sop_class_uid.encode()) + bytes((role.scu, role.scp)))
        if self.implementation_version_name:
            yield _item(_Item.IMPLEMENTATION_VERSION_NAME, self.implementation_version_name.encode("latin-1"))
        for extended in self.extended:
            value = _counted(extended.sop_class_uid.encode()) + extended.information
            yield _item(_Item.EXTENDED_NEGOTIATION, value)
        for common in self.common_extended:
            related = b"".join(_counted(uid.encode()) for uid in common.related_general_sop_class_uids)
            value = _counted(common.sop_class_uid.encode()) + _counted(common.service_class_uid.encode())
            yield _item(_Item.COMMON_EXTENDED_NEGOTIATION, value + _counted(related))
        if (identity := self.user_identity) is not None:
            value = bytes((identity.type, identity.positive_response_requested))
            yield _item(_Item.USER_IDENTITY_RQ, value + _counted(identity.primary) + _counted(identity.secondary))
        if self.user_identity_response is not None:
            yield _item(_Item.USER_IDENTITY_AC, _counted(self.user_identity_response))

    @classmethod
    def decode(cls, value: bytes, budget: Iterator[int] | None = None) -> UserInformation:
        """From the item's value; of a sub-item that may stand once, the last one counts."""
        single: dict[str, object] = {}
        several: dict[str, list[object]] = {"roles": [], "extended": [], "common_extended": []}
        for kind, content in _items(value, budget or _budget()):
            if (decoder := _SUB_ITEMS.get(kind)) is None:
                continue  # PS3.8 9.3.1: not recognized, ignored
            name, decode = decoder
            decoded = decode(content)
            if name in several:
                several[name].append(decoded)
            else:
                single[name] = decoded
        return cls(**single, **{name: tuple(values) for name, values in several.items()})  # type: ignore[arg-type]


def _decode_text(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")


def _decode_long(value: bytes) -> int:
    return int(_LONG.unpack(_exactly(value, 4, "maximum length"))[0])


def _decode_window(value: bytes) -> AsyncOperationsWindow:
    return AsyncOperationsWindow(*_TWO_SHORTS.unpack(_exactly(value, 4, "asynchronous operations window")))


def _decode_uid(value: bytes) -> str:
    """A UID that is sent back. Beyond the 64 characters of PS3.5 9.1 some are met; not beyond four times as many."""
    if len(value) > _MAX_UID:
        raise ProtocolError(f"a UID of {len(value)} bytes, at most {_MAX_UID} are taken")
    return clean_uid(value)


def _decode_role(value: bytes) -> RoleSelection:
    uid, rest = _cut(value, "role selection")
    if len(rest) < 2:
        raise ProtocolError(f"role selection for {clean_uid(uid)} ends before its roles")
    return RoleSelection(_decode_uid(uid), scu=rest[0] == 1, scp=rest[1] == 1)


def _decode_extended(value: bytes) -> ExtendedNegotiation:
    uid, rest = _cut(value, "extended negotiation")
    return ExtendedNegotiation(clean_uid(uid), rest)


def _decode_common_extended(value: bytes) -> CommonExtendedNegotiation:
    uid, rest = _cut(value, "common extended negotiation")
    service, rest = _cut(rest, "common extended negotiation")
    related, _reserved = _cut(rest, "common extended negotiation") if rest else (b"", b"")
    uids: list[str] = []
    while related:
        general, related = _cut(related, "common extended negotiation")
        if len(uids) == _MAX_RELATED:
            raise ProtocolError(f"common extended negotiation names more than {_MAX_RELATED} related SOP classes")
        uids.append(clean_uid(general))
    return CommonExtendedNegotiation(clean_uid(uid), clean_uid(service), tuple(uids))


def _decode_user_identity(value: bytes) -> UserIdentity:
    if len(value) < 2:
        raise ProtocolError(f"user identity has {len(value)} bytes, at least 6 are needed")
    primary, rest = _cut(value[2:], "user identity")
    secondary, _ = _cut(rest, "user identity") if rest else (b"", b"")
    return UserIdentity(value[0], primary, secondary, positive_response_requested=value[1] == 1)


def _decode_user_identity_response(value: bytes) -> bytes:
    return _cut(value, "user identity response")[0] if value else b""


_SUB_ITEMS = {
    _Item.MAXIMUM_LENGTH.value: ("maximum_length", _decode_long),
    _Item.IMPLEMENTATION_CLASS_UID.value: ("implementation_class_uid", clean_uid),
    _Item.ASYNC_OPERATIONS_WINDOW.value: ("async_operations_window", _decode_window),
    _Item.ROLE_SELECTION.value: ("roles", _decode_role),
    _Item.IMPLEMENTATION_VERSION_NAME.value: ("implementation_version_name", _decode_text),
    _Item.EXTENDED_NEGOTIATION.value: ("extended", _decode_extended),
    _Item.COMMON_EXTENDED_NEGOTIATION.value: ("common_extended", _decode_common_extended),
    _Item.USER_IDENTITY_RQ.value: ("user_identity", _decode_user_identity),
    _Item.USER_IDENTITY_AC.value: ("user_identity_response", _decode_user_identity_response),
}


@dataclass(frozen=True, slots=True)
class AssociateRQ:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2)."""

    type: ClassVar = PduType.A_ASSOCIATE_RQ

    called_ae_title: str
    """Without the padding; what peers send is decoded as Latin-1, so that no byte makes it fail."""
    calling_ae_title: str
    presentation_contexts: tuple[ProposedContext, ...]
    user_information: UserInformation = field(default_factory=UserInformation)
    application_context: str = APPLICATION_CONTEXT
    protocol_version: int = 1
    """Bit 0 set is version 1; the other bits are for versions that do not exist."""
    echo: bytes = field(default=b"", compare=False, repr=False)
    """Bytes 11 to 74 as they came: the AE titles and a reserved field, to be sent back unchanged (PS3.8 9.3.3)."""

    def encode(self) -> bytes:
        """The whole PDU. Raises ValueError for an AE title, or a length, that the standard does not allow."""
        contexts = b"".join(
            _item(
                _Item.PRESENTATION_CONTEXT_RQ,
                bytes((context.id, 0, 0, 0))
                + _item(_Item.ABSTRACT_SYNTAX, context.abstract_syntax.encode("ascii"))
                + b"".join(_item(_Item.TRANSFER_SYNTAX, uid.encode("ascii")) for uid in context.transfer_syntaxes),
            )
            for context in self.presentation_contexts
        )
        titles = _pad(check_ae_title(self.called_ae_title)) + _pad(check_ae_title(self.calling_ae_title))
        return _associate(self, titles + bytes(32), contexts)

    @classmethod
    def decode(cls, body: bytes) -> AssociateRQ:
        """From the bytes after the PDU header."""
        version, echo, items, budget = _associate_items(body, "A-ASSOCIATE-RQ")
        application_context = None
        contexts: dict[int, ProposedContext] = {}
        user_information = None
        for kind, value in items:
            if kind == _Item.APPLICATION_CONTEXT:
                application_context = clean_uid(value)
            elif kind == _Item.PRESENTATION_CONTEXT_RQ:
                context = _decode_proposed_context(value, budget)
                if context.id in contexts:
                    raise ProtocolError(f"presentation context ID {context.id} stands twice in the request")
                contexts[context.id] = context
            elif kind == _Item.USER_INFORMATION:
                user_information = _decode_user_information(user_information, value, budget)
        if application_context is None:
            raise ProtocolError("A-ASSOCIATE-RQ has no application context item")
        return cls(
            called_ae_title=_decode_text(echo[:16]),
            calling_ae_title=_decode_text(echo[16:32]),
            presentation_contexts=tuple(contexts.values()),
            user_information=user_information or UserInformation(),
            application_context=application_context,
            protocol_version=version,
            echo=echo,
        )


def _decode_user_information(earlier: UserInformation | None, value: bytes, budget: Iterator[int]) -> UserInformation:
    if earlier is not None:
        raise ProtocolError("the user information item stands twice")
    return UserInformation.decode(value, budget)


def _decode_proposed_context(value: bytes, budget: Iterator[int]) -> ProposedContext:
    if len(value) < 4:
        raise ProtocolError(f"presentation context item has {len(value)} bytes, at least 4 are needed")
    if value[0] % 2 == 0:
        raise ProtocolError(f"presentation context ID {value[0]} is not an odd number")
    abstract_syntax = None
    syntaxes = []
    for kind, content in _items(value[4:], budget):
        if kind == _Item.ABSTRACT_SYNTAX:
            abstract_syntax = _decode_uid(content)
        elif kind == _Item.TRANSFER_SYNTAX and (uid := _decode_uid(content)):
            syntaxes.append(uid)  # k-pacs sends an empty name first: skipped
    if not abstract_syntax:
        raise ProtocolError(f"presentation context {value[0]} has no abstract syntax")
    return ProposedContext(value[0], abstract_syntax, tuple(syntaxes))


@dataclass(frozen=True, slots=True)
class AssociateAC:
    """A-ASSOCIATE-AC (PS3.8 9.3.3)."""

    type: ClassVar = PduType.A_ASSOCIATE_AC

    presentation_contexts: tuple[ContextResult, ...]
    user_information: UserInformation = field(default_factory=UserInformation)
    application_context: str = APPLICATION_CONTEXT
    protocol_version: int = 1
    echo: bytes = field(default=bytes(64), repr=False)
    """Bytes 11 to 74 of the request, sent back unchanged; a requestor does not test them."""

    def encode(self) -> bytes:
        """The whole PDU."""
        contexts = b"".join(
            _item(
                _Item.PRESENTATION_CONTEXT_AC,
                bytes((context.id, 0, context.result, 0))
                + _item(_Item.TRANSFER_SYNTAX, context.transfer_syntax.encode("latin-1")),
            )
            for context in self.presentation_contexts
        )
        return _associate(self, self.echo, contexts)

    @classmethod
    def decode(cls, body: bytes) -> AssociateAC:
        """From the bytes after the PDU header. A missing application context is let pass: nothing depends on it."""
        version, echo, items, budget = _associate_items(body, "A-ASSOCIATE-AC")
        application_context = ""
        contexts = []
        user_information = None
        for kind, value in items:
            if kind == _Item.APPLICATION_CONTEXT:
                application_context = clean_uid(value)
            elif kind == _Item.PRESENTATION_CONTEXT_AC:
                contexts.append(_decode_context_result(value, budget))
            elif kind == _Item.USER_INFORMATION:
                user_information = _decode_user_information(user_information, value, budget)
        return cls(tuple(contexts), user_information or UserInformation(), application_context, version, echo)


def _decode_context_result(value: bytes, budget: Iterator[int]) -> ContextResult:
    if len(value) < 4:
        raise ProtocolError(f"presentation context item has {len(value)} bytes, at least 4 are needed")
    if value[2] != 0:
        return ContextResult(value[0], value[2], "")  # PS3.8 9.3.3.2.1: the transfer syntax is not significant
    syntaxes = [clean_uid(content) for kind, content in _items(value[4:], budget) if kind == _Item.TRANSFER_SYNTAX]
    return ContextResult(value[0], 0, syntaxes[0] if syntaxes else "")


@dataclass(frozen=True, slots=True)
class AssociateRJ:
    """A-ASSOCIATE-RJ (PS3.8 9.3.4); the numbers are those of Table 9-21."""

    type: ClassVar = PduType.A_ASSOCIATE_RJ

    result: int
    source: int
    reason: int

    def encode(self) -> bytes:
        """The whole PDU."""
        return PDU_HEADER.pack(self.type, 4) + bytes((0, self.result, self.source, self.reason))

    @classmethod
    def decode(cls, body: bytes) -> AssociateRJ:
        """From the bytes after the PDU header; numbers that the standard does not define are kept."""
        return cls(*_exactly(body, 4, "A-ASSOCIATE-RJ")[1:])


class PresentationDataValue(NamedTuple):
    """One PDV item (PS3.8 9.3.5.1): a fragment of a command set or data set (PS3.8 annex E)."""

    context_id: int
    is_command: bool
    is_last: bool
    fragment: bytes


@dataclass(frozen=True, slots=True)
class PDataTF:
    """P-DATA-TF (PS3.8 9.3.5)."""

    type: ClassVar = PduType.P_DATA_TF

    values: tuple[PresentationDataValue, ...]

    def encode(self) -> bytes:
        """The whole PDU."""
        body = b"".join(
            PDV_HEADER.pack(
                len(value.fragment) + _PDV_OVERHEAD, value.context_id, value.is_command | value.is_last << 1
            )
            + value.fragment
            for value in self.values
        )
        return PDU_HEADER.pack(self.type, len(body)) + body

    @classmethod
    def decode(cls, body: bytes) -> PDataTF:
        """From the bytes after the PDU header."""
        values = []
        position = 0
        while position < len(body):
            if len(body) - position < PDV_HEADER.size:
                raise ProtocolError(f"P-DATA-TF ends {len(body) - position} bytes into a PDV header")
            length, context_id, control = PDV_HEADER.unpack_from(body, position)
            position += PDV_HEADER.size
            if not 0 <= length - _PDV_OVERHEAD <= len(body) - position:
                raise ProtocolError(
                    f"PDV length {length}, {len(body) - position + _PDV_OVERHEAD} bytes left in its PDU"
                )
            fragment = bytes(body[position : position + length - _PDV_OVERHEAD])
            values.append(PresentationDataValue(context_id, bool(control & 1), bool(control & 2), fragment))
            position += len(fragment)
        if not values:
            raise ProtocolError("P-DATA-TF without a PDV")
        return cls(tuple(values))


@dataclass(frozen=True, slots=True)
class ReleaseRQ:
    """A-RELEASE-RQ (PS3.8 9.3.6)."""

    type: ClassVar = PduType.A_RELEASE_RQ

    def encode(self) -> bytes:
        """The whole PDU."""
        return PDU_HEADER.pack(self.type, 4) + bytes(4)

    @classmethod
    def decode(cls, body: bytes) -> ReleaseRQ:
        """From the bytes after the PDU header."""
        _exactly(body, 4, "A-RELEASE-RQ")
        return cls()


@dataclass(frozen=True, slots=True)
class ReleaseRP:
    """A-RELEASE-RP (PS3.8 9.3.7)."""

    type: ClassVar = PduType.A_RELEASE_RP

    def encode(self) -> bytes:
        """The whole PDU."""
        return PDU_HEADER.pack(self.type, 4) + bytes(4)

    @classmethod
    def decode(cls, body: bytes) -> ReleaseRP:
        """From the bytes after the PDU header."""
        _exactly(body, 4, "A-RELEASE-RP")
        return cls()


@dataclass(frozen=True, slots=True)
class Abort:
    """A-ABORT (PS3.8 9.3.8), the one PDU of the services A-ABORT and A-P-ABORT."""

    type: ClassVar = PduType.A_ABORT

    source: int
    """An :class:`~asyncdicom.errors.AbortSource`, or what the peer sent."""
    reason: int
    """An :class:`~asyncdicom.errors.AbortReason`, or what the peer sent."""

    def encode(self) -> bytes:
        """The whole PDU."""
        return PDU_HEADER.pack(self.type, 4) + bytes((0, 0, self.source, self.reason))

    @classmethod
    def decode(cls, body: bytes) -> Abort:
        """From the bytes after the PDU header; numbers that the standard does not define are kept."""
        return cls(*_exactly(body, 4, "A-ABORT")[2:])


PDU = AssociateRQ | AssociateAC | AssociateRJ | PDataTF | ReleaseRQ | ReleaseRP | Abort

_PDU_CLASSES: dict[int, type[PDU]] = {
    pdu.type: pdu for pdu in (AssociateRQ, AssociateAC, AssociateRJ, PDataTF, ReleaseRQ, ReleaseRP, Abort)
}


def decode_pdu(pdu_type: int, body: bytes) -> PDU:
    """A PDU from its type and the bytes after its header. Raises ProtocolError for what is not one."""
    try:
        pdu_class = _PDU_CLASSES[pdu_type]
    except KeyError:
        raise ProtocolError(f"unrecognized PDU type {pdu_type:02X}H", AbortReason.UNRECOGNIZED_PDU) from None
    return pdu_class.decode(body)


def check_ae_title(title: str) -> str:
    """The title, without the spaces around it that carry no meaning.

    Raises ValueError unless it then has 1 to 16 characters of the default repertoire without backslash and control
    characters (PS3.8 9.3.2, PS3.5 6.2).
    """
    if not isinstance(title, str):
        raise TypeError(f"an AE title is a str, got {title!r}")
    stripped = title.strip(" ")
    if not 0 < len(stripped) <= _AE_TITLE_LENGTH:
        raise ValueError(f"AE title {title!r} has {len(stripped)} characters, 1 to {_AE_TITLE_LENGTH} are allowed")
    if not stripped.isascii() or not stripped.isprintable() or "\\" in stripped:
        raise ValueError(f"AE title {title!r} has characters other than printable ASCII without backslash")
    return stripped


def check_pdu_lengths(maximum: int, maximum_sent: int) -> None:
    """Raise ValueError unless ``maximum`` can be announced (PS3.8 D.1) and ``maximum_sent`` leaves room for data."""
    if not (maximum == 0 or _SHORTEST_PDU <= maximum <= 0xFFFFFFFF):
        raise ValueError(
            f"a maximum PDU length of {maximum}; 0 for none, or {_SHORTEST_PDU} to 4294967295 are possible"
        )
    if not _SHORTEST_PDU <= maximum_sent <= 0xFFFFFFFF:
        raise ValueError(f"PDUs of at most {maximum_sent} bytes cannot be sent, {_SHORTEST_PDU} are the least")


def _pad(title: str) -> bytes:
    return title.encode("ascii").ljust(_AE_TITLE_LENGTH)


def _associate(pdu: AssociateRQ | AssociateAC, echo: bytes, contexts: bytes) -> bytes:
    items = _item(_Item.APPLICATION_CONTEXT, pdu.application_context.encode("latin-1"))
    items += contexts + pdu.user_information.encode()
    fixed = _SHORT.pack(pdu.protocol_version) + bytes(2) + echo
    return PDU_HEADER.pack(pdu.type, len(fixed) + len(items)) + fixed + items


def _associate_items(body: bytes, name: str) -> tuple[int, bytes, Iterable[tuple[int, bytes]], Iterator[int]]:
    if len(body) < _ASSOCIATE_FIXED:
        raise ProtocolError(f"{name} has {len(body)} bytes after its header, at least {_ASSOCIATE_FIXED} are needed")
    budget = _budget()
    return _SHORT.unpack_from(body)[0], body[4:_ASSOCIATE_FIXED], _items(body[_ASSOCIATE_FIXED:], budget), budget


def _budget() -> Iterator[int]:
    """Counts the items of one PDU, on whatever level."""
    return iter(range(MAX_ITEMS))


def _item(kind: int, value: bytes) -> bytes:
    if len(value) > _MAX_ITEM:
        raise ValueError(f"item {kind:02X}H would have {len(value)} bytes, {_MAX_ITEM} are the most it can have")
    return _ITEM_HEADER.pack(kind, len(value)) + value


def _items(value: bytes, budget: Iterator[int]) -> Iterator[tuple[int, bytes]]:
    position, end = 0, len(value)
    while position < end:
        if next(budget, None) is None:
            raise ProtocolError(f"more than {MAX_ITEMS} items in one PDU")
        if end - position < _ITEM_HEADER.size:
            raise ProtocolError(f"{end - position} bytes left where an item header of 4 bytes was expected")
        kind, length = _ITEM_HEADER.unpack_from(value, position)
        position += _ITEM_HEADER.size
        if length > end - position:
            raise ProtocolError(f"item {kind:02X}H announces {length} bytes, {end - position} are left")
        yield kind, value[position : position + length]
        position += length


def _counted(value: bytes) -> bytes:
    if len(value) > _MAX_ITEM:
        raise ValueError(f"a field of {len(value)} bytes, {_MAX_ITEM} are the most it can have")
    return _SHORT.pack(len(value)) + value


def _cut(value: bytes, name: str) -> tuple[bytes, bytes]:
    if len(value) < _SHORT.size:
        raise ProtocolError(f"{name} ends before a length field")
    (length,) = _SHORT.unpack_from(value)
    if length > len(value) - _SHORT.size:
        raise ProtocolError(f"{name} announces {length} bytes, {len(value) - _SHORT.size} are left")
    return value[_SHORT.size : _SHORT.size + length], value[_SHORT.size + length :]


def _exactly(value: bytes, length: int, name: str) -> bytes:
    if len(value) != length:
        raise ProtocolError(f"{name} has {len(value)} bytes, {length} were expected")
    return value
