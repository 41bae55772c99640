import pytest

from asyncdicom.cli.options import UsageError
from asyncdicom.cli.peer import Peer, parse_at_form, parse_peer


@pytest.mark.parametrize(
    ("words", "peer", "rest"),
    [
        (["host", "11112"], Peer("host", 11112), []),
        (["host", "11112", "a.dcm", "b"], Peer("host", 11112), ["a.dcm", "b"]),
        (["dicom://ME@host:11112/YOU", "a"], Peer("host", 11112, "YOU", "ME"), ["a"]),
        (["dicom://host/YOU"], Peer("host", 104, "YOU"), []),
        (["dicom://host:4242"], Peer("host", 4242), []),
        (["dicom://MY%20AE@[::1]:104/YOUR%20AE"], Peer("::1", 104, "YOUR AE", "MY AE"), []),
    ],
)
def test_a_peer_is_named_by_host_and_port_or_by_a_url(words, peer, rest):
    assert parse_peer(words, None) == (peer, rest)


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("PACS@host:11112", Peer("host", 11112, "PACS")),
        ("PACS@host", Peer("host", 104, "PACS")),
        ("PACS@[2001:db8::1]:11112", Peer("2001:db8::1", 11112, "PACS")),
        ("A@B@host:1", Peer("host", 1, "A@B")),
    ],
)
def test_a_peer_is_named_as_by_dcm4che(text, peer):
    assert parse_at_form(text) == peer


@pytest.mark.parametrize(
    "text", ["host:104", "@host:104", "PACS@", "PACS@:104", "PACS@host:x", "PACS@[::1", "PACS@h:99999"]
)
def test_a_form_that_lacks_something_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse_at_form(text)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["host"],
        ["host", "port"],
        ["host", "0"],
        ["host", "70000"],
        ["host", "¹"],
        ["dicom:///YOU"],
        ["dicom://ME:secret@host/YOU"],
        ["dicom://host/YOU?x"],
        ["dicom://host:port/YOU"],
        ["dicom://host/A-TITLE-THAT-IS-TOO-LONG"],
    ],
)
def test_a_command_line_without_a_peer_is_refused(words):
    with pytest.raises(UsageError):
        parse_peer(words, None)


def test_a_peer_that_was_given_leaves_all_words_to_files():
    peer = Peer("host", 1, "PACS")
    assert parse_peer(["a", "b"], peer) == (peer, ["a", "b"])
