import pickle

import pytest

from asyncdicom import errors
from asyncdicom.errors import (
    AbortReason,
    AbortSource,
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    AssociationTimeout,
    DicomError,
    ProtocolError,
    describe_abort,
    describe_rejection,
)

EXCEPTIONS = [
    each for name in errors.__all__ if isinstance(each := getattr(errors, name), type) and issubclass(each, Exception)
]


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_every_exception_is_a_dicom_error(exception):
    assert issubclass(exception, DicomError)


def test_the_abort_codes_are_those_of_table_9_26():
    assert [source.value for source in AbortSource] == [0, 2]
    assert [reason.value for reason in AbortReason] == [0, 1, 2, 4, 5, 6]


@pytest.mark.parametrize("reason", list(AbortReason))
def test_an_abort_of_the_provider_has_the_words_of_its_reason(reason):
    words = describe_abort(2, reason)
    assert words.startswith("service provider: ")
    assert words.split(": ")[1].replace("PDU", "pdu").replace(" ", "_").upper().endswith(reason.name)


def test_the_reason_of_an_abort_by_the_user_does_not_count():
    assert {describe_abort(0, reason) for reason in range(256)} == {"service user"}


@pytest.mark.parametrize(
    ("source", "reason", "words"),
    [
        (1, 0, "undefined source 1: reason not specified"),
        (2, 3, "service provider: undefined reason 3"),
        (255, 255, "undefined source 255: undefined reason 255"),
    ],
)
def test_undefined_abort_codes_are_named_as_they_are(source, reason, words):
    assert describe_abort(source, reason) == words


@pytest.mark.parametrize(
    ("source", "reason", "words"),
    [
        (1, 1, "service user, no reason given"),
        (1, 2, "service user, application context name not supported"),
        (1, 3, "service user, calling AE title not recognized"),
        (1, 7, "service user, called AE title not recognized"),
        (2, 1, "service provider, ACSE, no reason given"),
        (2, 2, "service provider, ACSE, protocol version not supported"),
        (3, 1, "service provider, presentation, temporary congestion"),
        (3, 2, "service provider, presentation, local limit exceeded"),
    ],
)
def test_a_rejection_has_the_words_of_table_9_21(source, reason, words):
    assert describe_rejection(1, source, reason) == f"permanent, {words}"
    assert describe_rejection(2, source, reason) == f"transient, {words}"
    assert words in str(AssociationRejected(1, source, reason))


def test_undefined_rejection_codes_are_named_as_they_are():
    assert describe_rejection(0, 4, 9) == "undefined result 0, undefined source 4, undefined reason 9"
    assert describe_rejection(1, 1, 4) == "permanent, service user, undefined reason 4"


def test_a_rejection_keeps_the_numbers_of_the_peer():
    rejected = AssociationRejected(2, 3, 9)
    assert (rejected.result, rejected.source, rejected.reason) == (2, 3, 9)
    assert rejected.is_transient
    assert not AssociationRejected(1, 3, 9).is_transient


def test_a_rejection_says_what_may_help():
    assert "calling AE title" in str(AssociationRejected(1, 1, 3)).split(";")[1]
    assert "called AE title" in str(AssociationRejected(1, 1, 7)).split(";")[1]
    assert "later" in str(AssociationRejected(2, 3, 2)).split(";")[1]


def test_an_abort_says_who_and_why():
    theirs = AssociationAborted(2, 6)
    assert str(theirs) == "association aborted by the peer (service provider: invalid PDU parameter value)"
    ours = AssociationAborted(0, 0, by_peer=False, detail="handler failed")
    assert str(ours) == "association aborted by this side (service user): handler failed"
    assert (theirs.source, theirs.reason, theirs.by_peer, ours.by_peer) == (2, 6, True, False)


def test_a_protocol_error_carries_the_reason_of_its_abort():
    assert ProtocolError("odd").reason is AbortReason.INVALID_PDU_PARAMETER_VALUE
    assert ProtocolError("odd", AbortReason.UNEXPECTED_PDU).reason is AbortReason.UNEXPECTED_PDU


def test_a_timeout_is_an_association_error_and_a_timeout_error():
    assert issubclass(AssociationTimeout, AssociationError)
    assert issubclass(AssociationTimeout, TimeoutError)


@pytest.mark.parametrize("error", [AssociationRejected(1, 2, 1), AssociationAborted(2, 6, by_peer=False, detail="why")])
def test_errors_go_to_other_processes_whole(error):
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), vars(again)) == (str(error), vars(error))
