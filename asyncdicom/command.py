"""The 23 DIMSE messages to and from command sets, and their statuses (PS3.7 chapters 6.3, 9.3, 10.3, annexes C, E).

One table, :data:`MESSAGES`, says what every message holds. A :class:`Command` is a command set without its structural
elements: the group length is computed, and whether a data set follows is a flag.
"""

from __future__ import annotations

import enum
import struct
from typing import Any, NamedTuple, Self

from .elements import implicit_element, pad_text, pad_uid
from .errors import AbortReason, LocalProtocolError, ProtocolError
from .uids import CONTEXTS_FOR, SERVICE_CLASSES

__all__ = [
    "MAX_COMMAND_LENGTH",
    "MESSAGES",
    "Category",
    "Command",
    "CommandDecoder",
    "CommandField",
    "DataSetPresence",
    "MessageType",
    "Priority",
    "Status",
]

MAX_COMMAND_LENGTH = 64 * 1024
"""Bytes of a command set that are taken. The largest sensible one, an N-GET-RQ of 4,000 attributes, has 16 KiB."""


class Priority(enum.IntEnum):
    """PS3.7 9.1.1.1.5; performers need not honour it."""

    MEDIUM = 0
    HIGH = 1
    LOW = 2


class CommandField(enum.IntEnum):
    """PS3.7 E.1, Table E.1-1."""

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    C_GET_RQ = 0x0010
    C_GET_RSP = 0x8010
    C_FIND_RQ = 0x0020
    C_FIND_RSP = 0x8020
    C_MOVE_RQ = 0x0021
    C_MOVE_RSP = 0x8021
    C_ECHO_RQ = 0x0030
    C_ECHO_RSP = 0x8030
    N_EVENT_REPORT_RQ = 0x0100
    N_EVENT_REPORT_RSP = 0x8100
    N_GET_RQ = 0x0110
    N_GET_RSP = 0x8110
    N_SET_RQ = 0x0120
    N_SET_RSP = 0x8120
    N_ACTION_RQ = 0x0130
    N_ACTION_RSP = 0x8130
    N_CREATE_RQ = 0x0140
    N_CREATE_RSP = 0x8140
    N_DELETE_RQ = 0x0150
    N_DELETE_RSP = 0x8150
    C_CANCEL_RQ = 0x0FFF


class DataSetPresence(enum.Enum):
    """Whether a data set follows a message's command set."""

    FORBIDDEN = "a data set shall not follow"
    REQUIRED = "a data set shall follow"
    CONDITIONAL = "a data set may follow"


class MessageType(NamedTuple):
    """One row of :data:`MESSAGES`."""

    name: str
    """As PS3.7 writes it, C-STORE-RQ."""
    field: CommandField
    data_set: DataSetPresence
    mandatory: tuple[str, ...]
    """Elements that shall be there, without the structural ones."""
    optional: tuple[str, ...]
    """User options and conditional elements, and in responses the status-related ones of PS3.7 annex C."""

    @property
    def is_response(self) -> bool:
        """Whether it answers another message (PS3.7 E.1: bit 15 of the command field)."""
        return bool(self.field & 0x8000)


_FORBIDDEN, _REQUIRED, _CONDITIONAL = DataSetPresence
_ANNEX_C = "offending_element? error_comment? error_id? attribute_identifier_list?"
_COUNTERS = (
    "number_of_remaining_suboperations? number_of_completed_suboperations? "
    "number_of_failed_suboperations? number_of_warning_suboperations?"
)

# PS3.7 9.3 and 10.3. Behind a name: ! mandatory, ? user option or conditional.
# fmt: off
_MESSAGES = (
    ("C-STORE-RQ", _REQUIRED, "affected_sop_class_uid! message_id! priority! affected_sop_instance_uid! "
        "move_originator_application_entity_title? move_originator_message_id?"),
    ("C-STORE-RSP", _FORBIDDEN, "affected_sop_class_uid? message_id_being_responded_to! status! "
        "affected_sop_instance_uid?"),
    ("C-FIND-RQ", _REQUIRED, "affected_sop_class_uid! message_id! priority!"),
    ("C-FIND-RSP", _CONDITIONAL, "affected_sop_class_uid? message_id_being_responded_to! status!"),
    ("C-GET-RQ", _REQUIRED, "affected_sop_class_uid! message_id! priority!"),
    ("C-GET-RSP", _CONDITIONAL, f"affected_sop_class_uid? message_id_being_responded_to! status! {_COUNTERS}"),
    ("C-MOVE-RQ", _REQUIRED, "affected_sop_class_uid! message_id! move_destination! priority!"),
    ("C-MOVE-RSP", _CONDITIONAL, f"affected_sop_class_uid? message_id_being_responded_to! status! {_COUNTERS}"),
    ("C-ECHO-RQ", _FORBIDDEN, "affected_sop_class_uid! message_id!"),
    ("C-ECHO-RSP", _FORBIDDEN, "affected_sop_class_uid? message_id_being_responded_to! status!"),
    ("C-CANCEL-RQ", _FORBIDDEN, "message_id_being_responded_to!"),
    ("N-EVENT-REPORT-RQ", _CONDITIONAL, "affected_sop_class_uid! message_id! affected_sop_instance_uid! "
        "event_type_id!"),
    ("N-EVENT-REPORT-RSP", _CONDITIONAL, "affected_sop_class_uid? message_id_being_responded_to! status! "
        "affected_sop_instance_uid? event_type_id?"),
    ("N-GET-RQ", _FORBIDDEN, "requested_sop_class_uid! message_id! requested_sop_instance_uid! "
        "attribute_identifier_list?"),
    ("N-GET-RSP", _CONDITIONAL, "affected_sop_class_uid? message_id_being_responded_to! status! "
        "affected_sop_instance_uid?"),
    ("N-SET-RQ", _REQUIRED, "requested_sop_class_uid! message_id! requested_sop_instance_uid!"),
    ("N-SET-RSP", _CONDITIONAL, "affected_sop_class_uid? message_id_being_responded_to! status! "
        "affected_sop_instance_uid?"),
    ("N-ACTION-RQ", _CONDITIONAL, "requested_sop_class_uid! message_id! requested_sop_instance_uid! action_type_id!"),
    ("N-ACTION-RSP", _CONDITIONAL, "affected_sop_class_uid? message_id_being_responded_to! status! "
        "affected_sop_instance_uid? action_type_id?"),
    ("N-CREATE-RQ", _CONDITIONAL, "affected_sop_class_uid! message_id! affected_sop_instance_uid?"),
    ("N-CREATE-RSP", _CONDITIONAL, "affected_sop_class_uid? message_id_being_responded_to! status! "
        "affected_sop_instance_uid?"),
    ("N-DELETE-RQ", _FORBIDDEN, "requested_sop_class_uid! message_id! requested_sop_instance_uid!"),
    ("N-DELETE-RSP", _FORBIDDEN, "affected_sop_class_uid? message_id_being_responded_to! status! "
        "affected_sop_instance_uid?"),
)
# fmt: on


def _message_type(name: str, data_set: DataSetPresence, elements: str) -> MessageType:
    field = CommandField[name.replace("-", "_")]
    names = (elements + (f" {_ANNEX_C}" if field & 0x8000 else "")).split()
    mandatory = tuple(each[:-1] for each in names if each.endswith("!"))
    return MessageType(name, field, data_set, mandatory, tuple(each[:-1] for each in names if each.endswith("?")))


MESSAGES: dict[int, MessageType] = {message.field: message for message in (_message_type(*row) for row in _MESSAGES)}
"""Every DIMSE message, by command field."""

_US = struct.Struct("<H")
_AT = struct.Struct("<HH")
_HEADER = struct.Struct("<II")  # group 0 and the element in one number, and the length
_GROUP_LENGTH, _COMMAND_FIELD, _DATA_SET_TYPE = 0x0000, 0x0100, 0x0800
_NO_DATA_SET, _DATA_SET = 0x0101, 0x0001


def _decode_us(value: bytes) -> int:
    return int.from_bytes(value[:2], "little")  # of several values, the first counts; of a longer one, its low half


def _decode_text(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")


def _decode_tags(value: bytes) -> tuple[int, ...]:
    return tuple(group << 16 | element for group, element in _AT.iter_unpack(value[: len(value) // 4 * 4]))


def _encode_us(value: int) -> bytes:
    if not 0 <= value <= 0xFFFF:
        raise LocalProtocolError(f"{value} does not fit into an unsigned short")
    return _US.pack(value)


def _encode_count(value: int) -> bytes:
    return _US.pack(min(value, 0xFFFF))  # more than 65,535 sub-operations are known to happen


def _encode_comment(text: str) -> bytes:
    return pad_text(text[:64])  # the most an LO may have (PS3.5 6.2)


def _encode_tags(tags: tuple[int, ...]) -> bytes:
    return b"".join(_AT.pack(tag >> 16, tag & 0xFFFF) for tag in tags)


# PS3.7 Table E.1-1 in tag order: element number, name, how its value is read, how it is written
_ELEMENTS = (
    (0x0002, "affected_sop_class_uid", _decode_text, pad_uid),
    (0x0003, "requested_sop_class_uid", _decode_text, pad_uid),
    (0x0110, "message_id", _decode_us, _encode_us),
    (0x0120, "message_id_being_responded_to", _decode_us, _encode_us),
    (0x0600, "move_destination", _decode_text, pad_text),
    (0x0700, "priority", _decode_us, _encode_us),
    (0x0900, "status", _decode_us, _encode_us),
    (0x0901, "offending_element", _decode_tags, _encode_tags),
    (0x0902, "error_comment", _decode_text, _encode_comment),
    (0x0903, "error_id", _decode_us, _encode_us),
    (0x1000, "affected_sop_instance_uid", _decode_text, pad_uid),
    (0x1001, "requested_sop_instance_uid", _decode_text, pad_uid),
    (0x1002, "event_type_id", _decode_us, _encode_us),
    (0x1005, "attribute_identifier_list", _decode_tags, _encode_tags),
    (0x1008, "action_type_id", _decode_us, _encode_us),
    (0x1020, "number_of_remaining_suboperations", _decode_us, _encode_count),
    (0x1021, "number_of_completed_suboperations", _decode_us, _encode_count),
    (0x1022, "number_of_failed_suboperations", _decode_us, _encode_count),
    (0x1023, "number_of_warning_suboperations", _decode_us, _encode_count),
    (0x1030, "move_originator_application_entity_title", _decode_text, pad_text),
    (0x1031, "move_originator_message_id", _decode_us, _encode_us),
)
_DECODERS = {number << 16: (name, decode) for number, name, decode, _ in _ELEMENTS}
_STRUCTURE = frozenset(("message", "has_data_set"))


class Command:
    """A DIMSE command set (PS3.7 6.3.1): its message type, and its elements as attributes, None where absent.

    Not to be changed once made. One class for all messages; the elements that are there are its ``__dict__``, so that
    decoding one makes nothing but a dictionary.
    """

    affected_sop_class_uid: str | None = None
    requested_sop_class_uid: str | None = None
    message_id: int | None = None
    message_id_being_responded_to: int | None = None
    move_destination: str | None = None
    priority: int | None = None
    status: int | None = None
    offending_element: tuple[int, ...] | None = None
    error_comment: str | None = None
    error_id: int | None = None
    affected_sop_instance_uid: str | None = None
    requested_sop_instance_uid: str | None = None
    event_type_id: int | None = None
    attribute_identifier_list: tuple[int, ...] | None = None
    action_type_id: int | None = None
    number_of_remaining_suboperations: int | None = None
    number_of_completed_suboperations: int | None = None
    number_of_failed_suboperations: int | None = None
    number_of_warning_suboperations: int | None = None
    move_originator_application_entity_title: str | None = None
    move_originator_message_id: int | None = None

    message: MessageType
    has_data_set: bool
    """Whether a data set follows (Command Data Set Type is not 0101H)."""

    def __init__(self, field: int, *, has_data_set: bool = False, **elements: object) -> None:
        """Elements by name, None for absent; which ones a message may have, :data:`MESSAGES` says."""
        self.message = MESSAGES[field]
        self.has_data_set = has_data_set
        self.__dict__.update(elements)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Command) and self._compared() == other._compared()

    __hash__ = None  # type: ignore[assignment]

    def _compared(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if value is not None}

    def __repr__(self) -> str:
        there = self._compared()
        shown = "".join(f", {name}={there[name]!r}" for _, name, _, _ in _ELEMENTS if name in there)
        return f"Command({self.message.name}{shown}, has_data_set={self.has_data_set})"

    def missing(self) -> tuple[str, ...]:
        """The mandatory elements that are not there."""
        return tuple(name for name in self.message.mandatory if getattr(self, name) is None)

    def encode(self) -> bytes:
        """The command set in Implicit VR Little Endian, in tag order, group length first (PS3.7 6.3.1).

        Raises LocalProtocolError when an element is missing that the message must have, or is there that it can't.
        """
        message = self.message
        elements: dict[str, Any] = {name: value for name, value in self._compared().items() if name not in _STRUCTURE}
        if missing := self.missing():
            raise LocalProtocolError(f"{message.name} needs {', '.join(missing)}")
        if unknown := elements.keys() - {*message.mandatory, *message.optional}:
            raise LocalProtocolError(f"{message.name} has no {', '.join(sorted(unknown))}")
        if message.data_set is not DataSetPresence.CONDITIONAL:
            if self.has_data_set is not (message.data_set is DataSetPresence.REQUIRED):
                raise LocalProtocolError(f"{message.name}: {message.data_set.value}")
        parts = [(number, encode(elements[name])) for number, name, _, encode in _ELEMENTS if name in elements]
        parts.append((_COMMAND_FIELD, _US.pack(message.field)))
        parts.append((_DATA_SET_TYPE, _US.pack(_DATA_SET if self.has_data_set else _NO_DATA_SET)))
        parts.sort()
        body = b"".join(implicit_element(number, value) for number, value in parts)
        return implicit_element(_GROUP_LENGTH, len(body).to_bytes(4, "little")) + body

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Command:
        """From a command set. Raises ProtocolError if it cannot be read, or lacks what no answer can do without.

        Tolerant, as real peers need it: retired and unknown elements are skipped, the group length is not relied upon,
        and a missing Command Data Set Type means what the message type makes of it. Other mandatory elements may be
        missing too: :meth:`missing` names them.
        """
        view = bytes(data)  # at most 64 KiB, mostly 100 bytes: slices of bytes cost half of a view's
        position, end = 0, len(view)
        field = data_set_type = None
        command = cls.__new__(cls)
        elements = command.__dict__
        while position < end:
            if end - position < _HEADER.size:
                raise ProtocolError(f"command set ends {end - position} bytes into an element header")
            key, length = _HEADER.unpack_from(view, position)
            position += _HEADER.size
            if length > end - position:
                raise ProtocolError(
                    f"command element (0000,{key >> 16:04X}) announces {length} bytes, {end - position} left"
                )
            value = view[position : position + length]
            position += length
            if (decoder := _DECODERS.get(key)) is not None:
                if length:
                    elements[decoder[0]] = decoder[1](value)
            elif key == _COMMAND_FIELD << 16:
                field = _decode_us(value)
            elif key == _DATA_SET_TYPE << 16:
                data_set_type = _decode_us(value)
        message = MESSAGES.get(field) if field is not None else None
        if message is None:
            what = "no command field" if field is None else f"unknown command field {field:04X}H"
            raise ProtocolError(f"command set has {what}", AbortReason.UNRECOGNIZED_PDU_PARAMETER)
        command.message = message
        if data_set_type is None:
            command.has_data_set = message.data_set is DataSetPresence.REQUIRED
        else:
            command.has_data_set = data_set_type != _NO_DATA_SET
        return command


_MAX_LAYOUTS, _MAX_LAYOUT = 8, 512
"""How many are kept, and the bytes of a command set that may become one: a peer must not fill the memory with them."""
_VARIABLE = {0x0110 << 16: "H", 0x0120 << 16: "H", 0x1000 << 16: "s"}
"""Message ID, Message ID Being Responded To, Affected SOP Instance UID: numbers and text."""


class CommandDecoder:
    """Decodes the command sets of one direction of an association, as :meth:`Command.decode` does.

    Most of them repeat an earlier one in all but their Message ID and SOP instance: those are compared with it and not
    read anew, which takes 0.7 microseconds instead of 2.9.
    """

    __slots__ = ("_layouts",)

    def __init__(self) -> None:
        self._layouts: dict[int, _Layout | None] = {}
        """By the length of the command set; None where it has come only once."""

    def decode(self, data: bytes | bytearray | memoryview) -> Command:
        """The command set. Raises ProtocolError as :meth:`Command.decode`."""
        layout = self._layouts.get(len(data))
        if layout is not None and (command := layout.decode(data)) is not None:
            return command
        command = Command.decode(data)
        if len(data) > _MAX_LAYOUT:
            return command
        if len(data) in self._layouts:
            self._layouts[len(data)] = _Layout(bytes(data), command)
        elif len(self._layouts) < _MAX_LAYOUTS:
            self._layouts[len(data)] = None
        else:
            self._layouts.clear()
        return command


class _Layout:
    """A command set as bytes that stay the same and elements that change, taking turns."""

    __slots__ = ("_constant", "_elements", "_numbers", "_texts", "_unpack")

    def __init__(self, data: bytes, command: Command) -> None:
        self._elements = command.__dict__.copy()
        self._numbers: list[tuple[str, int]] = []
        """Those that change, and which of the parts they are."""
        self._texts: list[tuple[str, int]] = []
        position = begun = 0
        layout = "<"
        while position < len(data):
            key, length = _HEADER.unpack_from(data, position)
            position += _HEADER.size
            if (kind := _VARIABLE.get(key)) and (length == _US.size if kind == "H" else length):
                variable = self._numbers if kind == "H" else self._texts
                variable.append((_DECODERS[key][0], 2 * len(self._numbers + self._texts) + 1))
                layout += f"{position - begun}s{'H' if kind == 'H' else f'{length}s'}"
                begun = position + length
            position += length
        self._unpack = struct.Struct(f"{layout}{position - begun}s").unpack
        self._constant = self._unpack(data)[::2]

    def decode(self, data: bytes | bytearray | memoryview) -> Command | None:
        """The command set, which is as long as the first one; None if it differs in more than may change."""
        parts = self._unpack(data)
        if parts[::2] != self._constant:
            return None
        command = Command.__new__(Command)
        command.__dict__ = elements = self._elements.copy()
        for name, index in self._numbers:
            elements[name] = parts[index]
        for name, index in self._texts:
            elements[name] = parts[index].decode("latin-1").strip("\0 ")
        return command


class Category(enum.Enum):
    """The status classes of PS3.7 annex C."""

    SUCCESS = "Success"
    WARNING = "Warning"
    FAILURE = "Failure"
    CANCEL = "Cancel"
    PENDING = "Pending"


class Status(int):
    """The status of a DIMSE response (PS3.7 annex C, and the service classes of PS3.4).

    An ordinary integer that knows its words. Unknown codes are legal values, and are failures.
    """

    error_comment: str = ""
    """What the performer said about it, at most 64 characters; from the peer, so it is data."""
    offending_element: tuple[int, ...] = ()
    """Tags in which the performer saw the error."""
    error_id: int | None = None
    """A number that the service class or the performer gives the error."""
    attribute_identifier_list: tuple[int, ...] = ()
    """Tags that were not recognized (DIMSE-N)."""

    SUCCESS: Status
    NO_SUCH_ATTRIBUTE: Status
    INVALID_ATTRIBUTE_VALUE: Status
    ATTRIBUTE_LIST_ERROR: Status
    NO_SUCH_SOP_INSTANCE: Status
    NO_SUCH_EVENT_TYPE: Status
    NO_SUCH_ARGUMENT: Status
    INVALID_ARGUMENT_VALUE: Status
    ATTRIBUTE_VALUE_OUT_OF_RANGE: Status
    NO_SUCH_SOP_CLASS: Status
    CLASS_INSTANCE_CONFLICT: Status
    MISSING_ATTRIBUTE: Status
    MISSING_ATTRIBUTE_VALUE: Status
    NO_SUCH_ACTION_TYPE: Status
    DUPLICATE_INVOCATION: Status
    MISTYPED_ARGUMENT: Status
    RESOURCE_LIMITATION: Status
    OUT_OF_RESOURCES: Status
    SUBOPERATIONS_NOT_PERFORMED: Status
    MOVE_DESTINATION_UNKNOWN: Status
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS: Status
    CANNOT_UNDERSTAND: Status
    COERCION_OF_DATA_ELEMENTS: Status
    ELEMENTS_DISCARDED: Status
    PROCESSING_FAILURE: Status
    DUPLICATE_SOP_INSTANCE: Status
    INVALID_SOP_INSTANCE: Status
    SOP_CLASS_NOT_SUPPORTED: Status
    NOT_AUTHORIZED: Status
    UNRECOGNIZED_OPERATION: Status
    CANCEL: Status
    PENDING: Status
    PENDING_WITHOUT_OPTIONAL_KEYS: Status

    def __new__(
        cls,
        code: int,
        error_comment: str = "",
        offending_element: tuple[int, ...] = (),
        *,
        error_id: int | None = None,
        attribute_identifier_list: tuple[int, ...] = (),
    ) -> Self:
        """A code from 0 to FFFFH, and what goes with it into the response."""
        if not 0 <= code <= 0xFFFF:
            raise ValueError(f"a status is an integer from 0 to 65535, got {code}")
        status = super().__new__(cls, code)
        if error_comment:
            status.error_comment = error_comment
        if offending_element:
            status.offending_element = offending_element
        if error_id is not None:
            status.error_id = error_id
        if attribute_identifier_list:
            status.attribute_identifier_list = attribute_identifier_list
        return status

    @property
    def related(self) -> dict[str, object]:
        """The command elements that go with it into a response (PS3.7 annex C)."""
        return {name: value for name, value in vars(self).items() if value}

    @property
    def category(self) -> Category:
        """The class of the status; by range, so that it is right for codes of services that are not known here."""
        if self == 0:
            return Category.SUCCESS
        if self == 0x0001 or 0xB000 <= self <= 0xBFFF or self in (0x0107, 0x0116):
            return Category.WARNING
        if self == 0xFE00:
            return Category.CANCEL
        if self in (0xFF00, 0xFF01):
            return Category.PENDING
        return Category.FAILURE

    @property
    def meaning(self) -> str:
        """What the standard calls it, whatever the service."""
        for first, last, words in _STATUSES:
            if first <= self <= last:
                return words
        return "undefined status"

    def describe(self, sop_class_uid: str) -> str:
        """What the service class of a SOP class calls it (PS3.4), which is more than :attr:`meaning` can know."""
        for service, words in _STATUSES_OF_SERVICES.items():
            if self in words and _belongs(sop_class_uid, service):
                return words[self]
        return self.meaning

    @property
    def is_success(self) -> bool:
        """Done, without reservation."""
        return self == 0

    @property
    def is_failure(self) -> bool:
        """Not done; with a warning it is done, and a pending status is not the last."""
        return self.category is Category.FAILURE

    def __repr__(self) -> str:
        return f"<Status {self}>"

    def __str__(self) -> str:
        comment = f": {self.error_comment}" if self.error_comment else ""
        return f"{int(self):04X}H {self.category.value} ({self.meaning}){comment}"


def _belongs(sop_class_uid: str, service: str) -> bool:
    own = SERVICE_CLASSES[service]
    return sop_class_uid in own or any(meta in own for meta in CONTEXTS_FOR.get(sop_class_uid, ()))


# PS3.7 annex C and the Storage and Query/Retrieve service classes of PS3.4
_STATUSES = (
    (0x0000, 0x0000, "success"),
    (0x0001, 0x0001, "requested optional attributes are not supported"),
    (0x0105, 0x0105, "no such attribute"),
    (0x0106, 0x0106, "invalid attribute value"),
    (0x0107, 0x0107, "attribute list error"),
    (0x0110, 0x0110, "processing failure"),
    (0x0111, 0x0111, "duplicate SOP instance"),
    (0x0112, 0x0112, "no such SOP instance"),
    (0x0113, 0x0113, "no such event type"),
    (0x0114, 0x0114, "no such argument"),
    (0x0115, 0x0115, "invalid argument value"),
    (0x0116, 0x0116, "attribute value out of range"),
    (0x0117, 0x0117, "invalid SOP instance"),
    (0x0118, 0x0118, "no such SOP class"),
    (0x0119, 0x0119, "class-instance conflict"),
    (0x0120, 0x0120, "missing attribute"),
    (0x0121, 0x0121, "missing attribute value"),
    (0x0122, 0x0122, "refused: SOP class not supported"),
    (0x0123, 0x0123, "no such action type"),
    (0x0124, 0x0124, "refused: not authorized"),
    (0x0210, 0x0210, "duplicate invocation"),
    (0x0211, 0x0211, "unrecognized operation"),
    (0x0212, 0x0212, "mistyped argument"),
    (0x0213, 0x0213, "resource limitation"),
    (0xA700, 0xA7FF, "refused: out of resources"),
    (0xA801, 0xA801, "refused: move destination unknown"),
    (0xA900, 0xA9FF, "data set does not match SOP class"),
    (0xB000, 0xB000, "data elements coerced, or some sub-operations failed"),
    (0xB006, 0xB006, "elements discarded"),
    (0xB007, 0xB007, "data set does not match SOP class, stored nevertheless"),
    (0xA000, 0xAFFF, "failure of the service class"),
    (0xB000, 0xBFFF, "warning of the service class"),
    (0xC000, 0xCFFF, "cannot understand, or unable to process"),
    (0xFE00, 0xFE00, "cancelled"),
    (0xFF00, 0xFF00, "pending"),
    (0xFF01, 0xFF01, "pending, optional keys not supported"),
)

# What the service classes of PS3.4 add, by annex
_RETRIEVE = {  # C.4.2.1.5, C.4.3.1.4
    0xA701: "refused: out of resources, number of matches could not be calculated",
    0xA702: "refused: out of resources, sub-operations could not be performed",
    0xB000: "sub-operations complete, at least one failed or gave a warning",
}
_STATUSES_OF_SERVICES: dict[str, dict[int, str]] = {
    "storage": {0xB000: "data elements were coerced"},  # B.2.3
    **dict.fromkeys(
        (
            "patient root",
            "study root",
            "patient/study only",
            "composite instance retrieve without bulk data",
            "hanging protocol query/retrieve",
            "color palette query/retrieve",
            "implant template query/retrieve",
            "defined procedure protocol query/retrieve",
            "protocol approval query/retrieve",
            "inventory query/retrieve",
        ),
        _RETRIEVE,
    ),
    "composite instance root retrieve": _RETRIEVE
    | {  # Y
        0xAA00: "none of the requested frames exist in the SOP instance",
        0xAA01: "a new object cannot be created for this SOP class",
        0xAA02: "frames cannot be extracted",
        0xAA03: "time-based request for an instance that is not time-based",
        0xAA04: "invalid request",
    },
    "repository query": {  # C.6.4
        0xA710: "invalid prior record key",
        0xB001: "response limit reached; a further request may return more matches",
    },
    "relevant patient information query": {  # Q
        0xC100: "failed: more than one match found",
        0xC200: "failed: requested template cannot be supported",
    },
    "print management": {  # H
        0xB600: "memory allocation not supported",
        0xB601: "film session printing (collation) not supported",
        0xB602: "film session hierarchy holds no image boxes (empty page)",
        0xB603: "film box hierarchy holds no image boxes (empty page)",
        0xB604: "image larger than image box; demagnified",
        0xB605: "requested density outside the printer's range; the printer's limit is used",
        0xB609: "image larger than image box; cropped",
        0xB60A: "image or combined print image larger than image box; decimated",
        0xC600: "film session hierarchy holds no film boxes",
        0xC601: "no print job instance could be created; print queue is full",
        0xC602: "no print job instance could be created; print queue is full",
        0xC603: "image larger than image box",
        0xC605: "not enough printer memory for the image",
        0xC613: "combined print image larger than image box",
        0xC616: "an unprinted film box exists and N-ACTION on the film session is not supported",
    },
    "unified procedure step": {  # CC
        0xB300: "created with modifications",
        0xB301: "deletion lock not granted",
        0xB304: "UPS is already CANCELED",
        0xB305: "invalid values coerced to valid ones",
        0xB306: "UPS is already COMPLETED",
        0xC300: "UPS may no longer be updated",
        0xC301: "correct Transaction UID not provided",
        0xC302: "UPS is already IN PROGRESS",
        0xC303: "UPS becomes SCHEDULED only via N-CREATE",
        0xC304: "final state requirements not met",
        0xC307: "no such UPS managed by this SCP",
        0xC308: "receiving AE title unknown to this SCP",
        0xC309: "Procedure Step State was not SCHEDULED",
        0xC310: "UPS is not yet IN PROGRESS",
        0xC311: "UPS is already COMPLETED",
        0xC312: "performer cannot be contacted",
        0xC313: "performer chooses not to cancel",
        0xC314: "action not appropriate for this instance",
        0xC315: "SCP does not support event reports",
    },
    "media creation management": {  # S
        0xA510: "an Initiate Media Creation action was already received for this instance",
        0xC201: "request already completed",
        0xC202: "request in progress and cannot be interrupted",
        0xC203: "cancellation denied, reason unspecified",
    },
    "application event logging": {  # P.2, P.3
        0xB101: "Synchronization Frame of Reference UID differs from the SCP's",
        0xB102: "logged under a different Study Instance UID",
        0xB104: "IDs inconsistent in matching a current study; logged",
        0xC101: "procedural logging not available for the Study Instance UID",
        0xC102: "event information does not match the template",
        0xC103: "event cannot be matched to a current study",
        0xC104: "IDs inconsistent; not logged",
        0xC10E: "operator not authorized to add an entry",
        0xC110: "patient cannot be identified",
        0xC111: "update of the Medication Administration Record failed",
    },
    "rt machine verification": {  # DD
        0xC112: "Machine Verification instance not found",
        0xC221: "referenced fraction group number does not exist in the plan",
        0xC222: "no beams in the referenced fraction group",
        0xC223: "SCU is already verifying",
        0xC224: "referenced beam number not found",
        0xC225: "referenced device or accessory not supported",
        0xC226: "referenced device or accessory not found in the beam",
        0xC227: "referenced RT Plan not found",
    },
    "storage management": {  # KK
        0xB010: "attribute list error: one or more key attributes are not supported for matching",
    },
}

Status.SUCCESS = Status(0x0000)
Status.NO_SUCH_ATTRIBUTE = Status(0x0105)
Status.INVALID_ATTRIBUTE_VALUE = Status(0x0106)
Status.ATTRIBUTE_LIST_ERROR = Status(0x0107)
Status.NO_SUCH_SOP_INSTANCE = Status(0x0112)
Status.NO_SUCH_EVENT_TYPE = Status(0x0113)
Status.NO_SUCH_ARGUMENT = Status(0x0114)
Status.INVALID_ARGUMENT_VALUE = Status(0x0115)
Status.ATTRIBUTE_VALUE_OUT_OF_RANGE = Status(0x0116)
Status.NO_SUCH_SOP_CLASS = Status(0x0118)
Status.CLASS_INSTANCE_CONFLICT = Status(0x0119)
Status.MISSING_ATTRIBUTE = Status(0x0120)
Status.MISSING_ATTRIBUTE_VALUE = Status(0x0121)
Status.NO_SUCH_ACTION_TYPE = Status(0x0123)
Status.DUPLICATE_INVOCATION = Status(0x0210)
Status.MISTYPED_ARGUMENT = Status(0x0212)
Status.RESOURCE_LIMITATION = Status(0x0213)
Status.SUBOPERATIONS_NOT_PERFORMED = Status(0xA702)
Status.MOVE_DESTINATION_UNKNOWN = Status(0xA801)
Status.PENDING_WITHOUT_OPTIONAL_KEYS = Status(0xFF01)
Status.OUT_OF_RESOURCES = Status(0xA700)
Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS = Status(0xA900)
Status.CANNOT_UNDERSTAND = Status(0xC000)
Status.COERCION_OF_DATA_ELEMENTS = Status(0xB000)
Status.ELEMENTS_DISCARDED = Status(0xB006)
Status.PROCESSING_FAILURE = Status(0x0110)
Status.DUPLICATE_SOP_INSTANCE = Status(0x0111)
Status.INVALID_SOP_INSTANCE = Status(0x0117)
Status.SOP_CLASS_NOT_SUPPORTED = Status(0x0122)
Status.NOT_AUTHORIZED = Status(0x0124)
Status.UNRECOGNIZED_OPERATION = Status(0x0211)
Status.CANCEL = Status(0xFE00)
Status.PENDING = Status(0xFF00)
