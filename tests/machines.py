"""Machines to test with, and a wire between two of them: no sockets, no clock."""

from itertools import pairwise

from asyncdicom.pdu import (
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    PDataTF,
    PresentationDataValue,
    UserInformation,
    decode_pdu,
)
from asyncdicom.presentation import ContextResult, ProposedContext
from asyncdicom.receive_buffer import ReceiveBuffer, SlabPool
from asyncdicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from asyncdicom.upper_layer import Indication, UpperLayer

NOW = 100.0
ARTIM = 30.0
MAX_LENGTH = 16384

REQUEST = AssociateRQ(
    "ACCEPTOR",
    "REQUESTOR",
    (ProposedContext(1, VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)),),
    UserInformation(maximum_length=MAX_LENGTH, implementation_class_uid="1.2.3"),
)
ACCEPT = AssociateAC(
    (ContextResult(1, 0, IMPLICIT_VR_LITTLE_ENDIAN),),
    UserInformation(maximum_length=MAX_LENGTH, implementation_class_uid="1.2.4"),
)
REJECT = AssociateRJ(1, 1, 7)
DATA = PDataTF((PresentationDataValue(1, is_command=True, is_last=True, fragment=b"abcd"),))
FRAGMENT = (1, 3, b"abcd")
"""What a receiver makes of DATA."""


def machine(*, requestor=False, admit=None, slab_size=4096):
    """An idle protocol machine."""
    return UpperLayer(
        requestor=requestor,
        max_pdu_length=MAX_LENGTH,
        artim_timeout=ARTIM,
        pool=SlabPool(slab_size),
        admit=admit,
    )


def receive_buffer(max_length=MAX_LENGTH, slab_size=4096):
    """A receive buffer with memory of its own."""
    return ReceiveBuffer(SlabPool(slab_size), max_length)


def feed(receiver, data, *arguments, cuts=()):
    """Let a receive buffer or a machine receive the bytes, read by read; returns what it found, views as bytes."""
    found = []
    for count in _reads(receiver, data, cuts):
        found += _kept(receiver.bytes_received(count, *arguments))
    return found


def receive(it, data, cuts=()):
    """Let a machine receive the bytes; returns all that its user is given, in order: indications and fragments."""
    given = []
    for count in _reads(it, data, cuts):
        fragments = it.bytes_received(count, NOW)
        for each in it.indications():
            given += _kept(each.about) if each.what is Indication.DATA else [each]
        given += _kept(fragments)
    return given


def _reads(receiver, data, cuts):
    edges = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(edges):
        position = start
        while position < end:
            buffer = receiver.pool.current()
            count = min(len(buffer), end - position)
            buffer[:count] = data[position : position + count]
            yield count
            position += count


def _kept(items):
    """What was found, with views as bytes, each fragment for itself."""
    kept = []
    for item in items:
        kept += [(*item[:2], bytes(view)) for view in item[2]] if type(item) is tuple else [item]
    return kept


def pdus(data):
    """The PDUs in the bytes that a machine wants to send."""
    found = []
    while data:
        length = int.from_bytes(data[2:6], "big") + 6
        found.append(decode_pdu(data[0], data[6:length]))
        data = data[length:]
    return found


class Wire:
    """Two machines and what lies between them."""

    def __init__(self, admit=None):
        self.requestor = machine(requestor=True)
        self.acceptor = machine(admit=admit)
        self.sent = []
        """The PDUs that went over the wire, by their names."""
        self.received = []
        """The P-DATA fragments that reached a user."""

    def connect(self, request=REQUEST):
        self.requestor.associate(NOW)
        self.acceptor.transport_opened(NOW)
        self.requestor.transport_opened(NOW, request)
        self.carry()

    def establish(self):
        self.connect()
        self.acceptor.accept(ACCEPT, NOW)
        self.carry()
        self.indications()

    def carry(self):
        """Move bytes until both sides are silent."""
        silent = 0
        sides = [(self.requestor, self.acceptor), (self.acceptor, self.requestor)]
        while silent < len(sides):
            sender, receiver = sides[0]
            sides.reverse()
            data = sender.data_to_send()
            silent = 0 if data else silent + 1
            self.sent += [pdu.type.name for pdu in pdus(data)]
            self.received += feed(receiver, data, NOW)

    def close(self):
        """What the transport does when a side has asked for it."""
        assert self.requestor.close_expected or self.acceptor.close_expected
        self.requestor.transport_closed(NOW)
        self.acceptor.transport_closed(NOW)

    def indications(self):
        """What both users were told, the requestor's first."""
        return [[each.what.name for each in side.indications()] for side in (self.requestor, self.acceptor)]

    def states(self):
        return self.requestor.state.name, self.acceptor.state.name
