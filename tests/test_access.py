"""Who may do what: the policy as a table, its file, what it counts, and a server that goes by it."""

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import pickle
import random
import re
import signal
import ssl
from pathlib import Path

import pytest
from certificates import Certificates
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from raw_peer import CT, DEADLINE, data_set, echo_request, pdv, raw_client, request, store_request
from standard_tables import DIMSE

import asyncdicom
from asyncdicom import AccessPolicy, AccessPolicyError, Context, Rule, Status, UserIdentity
from asyncdicom.access import _SERVICES, Admission, Limits, Refusal, _consists, _Patterns
from asyncdicom.command import CommandField
from asyncdicom.identity import User
from asyncdicom.pdu import AssociateAC, AssociateRJ
from asyncdicom.presentation import Result
from asyncdicom.tls import client_context, server_context
from asyncdicom.uids import MODALITY_WORKLIST_FIND, STUDY_ROOT_FIND, STUDY_ROOT_MOVE, VERIFICATION
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_PUSH as UPS_PUSH
from asyncdicom.uids import UNIFIED_PROCEDURE_STEP_WATCH as UPS_WATCH

MR = "1.2.840.10008.5.1.4.1.1.4"
CALLING, CALLED, NO_REASON = AssociateRJ(1, 1, 3), AssociateRJ(1, 1, 7), AssociateRJ(1, 1, 1)


@dataclasses.dataclass
class Certificate:
    """What rules look at."""

    sha256: str = "ab" * 32
    common_names: tuple[str, ...] = ("pacs.hospital.example",)
    dns_names: tuple[str, ...] = ("PACS.hospital.example",)
    ip_addresses: tuple[str, ...] = ("10.2.0.9", "2001:db8::9")
    uris: tuple[str, ...] = ("urn:uuid:7",)
    emails: tuple[str, ...] = ("Pacs@hospital.example",)


PACS = Certificate()
STRANGER = Certificate("cd" * 32, (), ("evil.example",), (), (), ())


@dataclasses.dataclass
class Peer:
    """Who asks."""

    calling_ae_title: str
    called_ae_title: str = "ARCHIVE"
    peer_address: str = "10.1.0.5"
    peer_certificate: Certificate | None = None
    user: str = ""
    fingerprint: str = ""
    """Of a certificate that cannot be read."""

    @property
    def peer_certificate_sha256(self):
        return self.peer_certificate.sha256 if self.peer_certificate else self.fingerprint


HOSPITAL = """
[[rules]]
name = "banned"
allow = false
calling_ae_titles = "OLDCT"

[[rules]]
name = "modalities"
calling_ae_titles = ["CT*", "MR1"]
called_ae_titles = "ARCHIVE"
networks = ["10.1.0.0/16", "2001:db8::/32"]
services = ["C-STORE", "C-ECHO"]
sop_classes = ["storage", "verification"]

[[rules]]
name = "pacs"
calling_ae_titles = "PACS"
certificates = ["dns:*.hospital.example"]

[[rules]]
name = "viewers"
calling_ae_titles = "VIEW*"
users = ["alice", "*@radiology"]
services = ["C-FIND", "C-MOVE", "C-GET", "C-ECHO"]
sop_classes = ["query/retrieve", "verification"]

[[rules]]
name = "tests"
calling_ae_titles = "TEST"
called_ae_titles = ["TEST", "LAB*"]
"""

TABLE = [
    # who, and what becomes of it: the name of a rule, or a refusal and a word of the reason
    (Peer("CT1"), "modalities"),
    (Peer("CT"), "modalities"),
    (Peer("MR1"), "modalities"),
    (Peer("CT1", peer_address="10.1.255.255"), "modalities"),
    (Peer("CT1", peer_address="::ffff:10.1.0.5"), "modalities"),
    (Peer("CT1", peer_address="2001:db8::5"), "modalities"),
    (Peer("CT1", peer_address="2001:db8::5%eth0"), "modalities"),
    (Peer("MR2"), (CALLING, "'MR2'")),
    (Peer("ct1"), (CALLING, "'ct1'")),
    (Peer(""), (CALLING, "''")),
    (Peer("XCT1"), (CALLING, "'XCT1'")),
    (Peer("OLDCT"), (CALLING, "rule 'banned'")),
    (Peer("CT1", "STAGING"), (CALLED, "'STAGING'")),
    (Peer("CT1", "archive"), (CALLED, "'archive'")),
    (Peer("CT1", peer_address="10.2.0.1"), (NO_REASON, "'modalities' by its networks")),
    (Peer("CT1", peer_address="2001:db9::5"), (NO_REASON, "networks")),
    (Peer("CT1", peer_address=""), (NO_REASON, "networks")),
    (Peer("CT1", peer_address="/run/socket"), (NO_REASON, "networks")),
    (Peer("PACS", "ANYTHING", "192.0.2.1", PACS), "pacs"),
    (Peer("PACS"), (NO_REASON, "'pacs' by its certificates")),
    (Peer("PACS", peer_certificate=STRANGER), (NO_REASON, "certificates")),
    (Peer("VIEW1", user="alice"), "viewers"),
    (Peer("VIEW1", user="bob@radiology"), "viewers"),
    (Peer("VIEW1", user="alicea"), (NO_REASON, "'viewers' by its users")),
    (Peer("VIEW1"), (NO_REASON, "users")),
    (Peer("TEST", "LAB3"), "tests"),
    (Peer("TEST", "ARCHIVE"), (CALLED, "'TEST'")),
]


EXAMPLE = Path(__file__).parent.parent / "examples" / "access.toml"
FAR = "198.51.100.7"
EXAMPLE_TABLE = [
    # who; by which rule; what it may do; what it may not
    (Peer("CT1", peer_address="10.20.1.7"), "modalities", "C-STORE C-FIND N-CREATE", "C-MOVE N-DELETE"),
    (Peer("CT1", peer_address="10.30.0.7"), "verification", "C-ECHO", "C-STORE"),
    (Peer("CT1", "WORKLIST", "10.20.1.7"), "verification", "C-ECHO", "C-STORE"),
    (Peer("REGION", "ARCHIVE", FAR, Certificate(dns_names=("pacs.region.example",))), "pacs", "C-STORE C-GET", ""),
    (Peer("REGION", "ARCHIVE", FAR, STRANGER), None, "", ""),
    (Peer("VIEW_OR1", peer_address="10.30.4.4", user="alice"), "viewers", "C-FIND C-MOVE C-GET", "C-STORE"),
    (Peer("VIEW_OR1", peer_address="10.30.4.4"), "verification", "C-ECHO", "C-FIND"),
    (Peer("STOLEN_CT", peer_address="10.20.1.7"), None, "", ""),
    (Peer("ANYBODY", peer_address="10.0.0.1"), "verification", "C-ECHO", "C-FIND C-STORE"),
    (Peer("ANYBODY", peer_address=FAR), None, "", ""),
]


@pytest.mark.parametrize(("peer", "name", "may", "may_not"), EXAMPLE_TABLE)
def test_the_example_of_a_hospital_says_what_its_comments_say(peer, name, may, may_not):
    judged = AccessPolicy.from_toml(EXAMPLE).judge(peer)
    assert (judged.name if isinstance(judged, Rule) else None) == name
    assert [judged.refusal(_SERVICES[each]) for each in may.split()] == [None] * len(may.split())
    assert all(judged.refusal(_SERVICES[each]) for each in may_not.split())


def outcome(policy, peer, **more):
    judged = policy.judge(peer, **more)
    return judged.name if isinstance(judged, Rule) else judged


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "access.toml"
    path.write_text(HOSPITAL)
    return AccessPolicy.from_toml(path)


@pytest.mark.parametrize(("peer", "expected"), TABLE)
def test_who_is_admitted_by_which_rule_and_who_is_not(hospital, peer, expected):
    found = outcome(hospital, peer)
    if isinstance(expected, str):
        assert found == expected
    else:
        assert found.rejection == expected[0]
        assert expected[1] in found.why


@pytest.mark.parametrize(("peer", "expected"), TABLE)
def test_a_rule_that_turns_everybody_away_at_the_end_says_what_the_default_does(hospital, peer, expected):
    other = AccessPolicy((*hospital.rules, Rule(name="rest", allow=False)), "allow")
    closed = AccessPolicy((*hospital.rules, Rule(name="rest", allow=False)))
    found, denied = outcome(other, peer), outcome(closed, peer)
    if isinstance(expected, str):
        assert found == denied == expected
    else:
        assert denied.rejection == expected[0]
        assert found.rejection == NO_REASON  # by that default everybody is known


def test_an_empty_policy_denies_and_one_word_makes_it_allow():
    peer = Peer("ANYBODY")
    assert outcome(AccessPolicy(), peer).rejection == CALLING
    assert outcome(AccessPolicy.from_dict({}), peer).rejection == CALLING
    assert outcome(AccessPolicy(default="allow"), peer) == "default"


def test_the_first_rule_that_fits_decides():
    narrow = Rule(name="narrow", calling_ae_titles="A", services="C-ECHO")
    wide = Rule(name="wide")
    assert outcome(AccessPolicy((narrow, wide)), Peer("A")) == "narrow"
    assert outcome(AccessPolicy((wide, narrow)), Peer("A")) == "wide"
    assert outcome(AccessPolicy((narrow, wide)), Peer("B")) == "wide"


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("sha256:" + "AB:" * 31 + "AB", True),
        ("sha256:" + "cd" * 32, False),
        ("cn:pacs.hospital.example", True),
        ("cn:pacs.*", True),
        ("cn:PACS.*", False),
        ("dns:pacs.hospital.example", True),
        ("dns:*.HOSPITAL.example", True),
        ("dns:hospital.example", False),
        ("ip:10.2.0.9", True),
        ("ip:2001:0DB8::0:9", True),
        ("ip:10.2.0.1", False),
        ("uri:urn:uuid:*", True),
        ("email:pacs@*", True),
        ("email:root@*", False),
    ],
)
def test_certificates_are_told_by_fingerprint_name_and_alternative_names(pattern, fits):
    rule = Rule(name="r", certificates=pattern)
    assert rule.misfit(Peer("A", peer_certificate=PACS)) == ("" if fits else "certificates")
    assert rule.misfit(Peer("A", peer_certificate=None)) == "certificates"


@pytest.mark.parametrize(
    ("patterns", "admits", "turns_away"),
    [
        ("cn:pacs.*", False, True),
        ("sha256:" + "ab" * 32, True, True),
        ("sha256:" + "cd" * 32, False, False),
        (("sha256:" + "ab" * 32, "cn:x"), True, True),
        (("sha256:" + "cd" * 32, "cn:x"), False, True),
    ],
)
def test_names_that_cannot_be_read_admit_nobody_and_let_nobody_past(patterns, admits, turns_away):
    unreadable = Peer("A", fingerprint="ab" * 32)
    allow, deny = (Rule(name="r", allow=allow, certificates=patterns) for allow in (True, False))
    assert outcome(AccessPolicy((allow,)), unreadable) == "r" if admits else allow.misfit(unreadable) == "certificates"
    assert outcome(AccessPolicy((deny,), "allow"), Peer("A")) == "default"
    assert (outcome(AccessPolicy((deny,), "allow"), unreadable) != "default") is turns_away


@pytest.mark.parametrize(
    ("patterns", "admits", "turns_away"),
    [("cn:pacs", False, True), ("cn:other", False, False), (("cn:pacs", "uri:*"), True, True)],
)
def test_one_of_several_common_names_admits_nobody_and_lets_nobody_past(patterns, admits, turns_away):
    peer = Peer("A", peer_certificate=Certificate(common_names=("pacs", "second")))
    allow, deny = (Rule(name="r", allow=allow, certificates=patterns) for allow in (True, False))
    assert (allow.misfit(peer) == "", deny.misfit(peer) == "") == (admits, turns_away)


def test_rules_that_do_not_look_at_certificates_admit_whoever_has_one_that_cannot_be_read():
    device, banned = Rule(name="device", calling_ae_titles="A"), Rule(name="banned", allow=False, certificates="cn:x")
    unreadable = Peer("A", fingerprint="ab" * 32)
    assert outcome(AccessPolicy((device, banned)), unreadable) == "device"
    assert outcome(AccessPolicy((banned, device)), unreadable).rejection == NO_REASON


def test_a_name_that_a_certificate_does_not_have_fits_no_pattern():
    assert Rule(name="r", certificates="cn:*").misfit(Peer("A", peer_certificate=STRANGER)) == "certificates"
    assert Rule(name="r", users="*").misfit(Peer("A", user="")) == "users"


def test_before_the_user_is_known_only_those_are_refused_whom_no_user_would_help(hospital):
    assert outcome(hospital, Peer("VIEW1"), user_known=False) == "viewers"
    assert outcome(hospital, Peer("PACS"), user_known=False).rejection == NO_REASON
    banned = AccessPolicy((Rule(name="banned", allow=False, users="mallory"), Rule(name="rest")))
    assert outcome(banned, Peer("VIEW1"), user_known=False) == "rest"
    assert outcome(banned, Peer("VIEW1", user="mallory")).rejection == NO_REASON


@given(st.text("ab", max_size=8), st.text("ab*", max_size=6))
def test_patterns_match_as_regular_expressions_would(text, pattern):
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
    assert _Patterns.of([pattern]).match(text) is expected


def test_a_pattern_of_many_asterisks_takes_no_time():
    assert not _consists("a" * 20_000, (*("a",) * 5_000, "b", "a"))


# What a rule lets do


@pytest.mark.parametrize(
    ("names", "permitted", "refused"),
    [
        ((), [CT, "1.2.3"], []),
        ("storage", [CT, MR], [VERIFICATION, "1.2.3"]),
        (["CTImageStorage", "modality worklist"], [CT, MODALITY_WORKLIST_FIND], [MR]),
        ("1.3.6.1.4.1.99999.*", ["1.3.6.1.4.1.99999.7"], ["1.3.6.1.4.1.9999", CT]),
        ("Study Root Query/Retrieve Information Model - FIND", [STUDY_ROOT_FIND], [STUDY_ROOT_MOVE]),
    ],
)
def test_sop_classes_have_the_names_that_contexts_have(names, permitted, refused):
    rule = Rule(name="r", sop_classes=tuple(names) if isinstance(names, list) else names)
    assert [rule.permits(uid) for uid in (*permitted, *refused)] == [True] * len(permitted) + [False] * len(refused)


@pytest.mark.parametrize("service", _SERVICES)
def test_a_service_that_is_not_allowed_is_answered_with_a_status_that_it_may_have(service):
    table = DIMSE["status_by_dimse_service"]
    field = CommandField[service.replace("-", "_") + "_RQ"]
    assert Rule(name="r", services=service).refusal(field) is None
    status = Rule(name="r", services="C-ECHO" if service != "C-ECHO" else "C-STORE").refusal(field)
    assert f"{status:04X}H" in table[service]["codes"]
    assert status.is_failure
    assert "authorized" in str(status)


# What cannot be meant


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("default = 'perhaps'", "default: 'perhaps'"),
        ("rule = []", "rule: there is no such key"),
        ("rules = 5", "rules: an array of tables"),
        ("rules = ['x']", "rules: an array of tables"),
        ("[[rules]]\nallow = true", "rule 1: name: every rule"),
        ("[[rules]]\nname = ''", "rule '': name"),
        ("[[rules]]\nname = 5", "rule 5: name"),
        ("[[rules]]\nname = 'a'\n[[rules]]\nname = 'a'", "rule 'a': name: another one has it"),
        ("[[rules]]\nname = 'default'", "rule 'default': name"),
        ("[[rules]]\nname = 'a'\nnetwork = '10.0.0.0/8'", "rule 'a': network: there is no such key"),
        ("[[rules]]\nname = 'a'\n_fits = 'x'", "rule 'a': _fits: there is no such key"),
        ("[[rules]]\nname = 'a'\nnetworks = []", "rule 'a': networks: nothing is listed"),
        ("[[rules]]\nname = 'a'\nnetworks = '10.0.0.300'", "rule 'a': networks: '10.0.0.300'"),
        ("[[rules]]\nname = 'a'\nnetworks = '10.0.0.1/8'", "rule 'a': networks: 10.0.0.1/8 has host bits set"),
        ("[[rules]]\nname = 'a'\nnetworks = [5]", "rule 'a': networks: [5] is no text"),
        ("[[rules]]\nname = 'a'\nusers = ''", "rule 'a': users: '' is no text"),
        ("[[rules]]\nname = 'a'\ncalling_ae_titles = 'SEVENTEEN_LETTERS'", "rule 'a': calling_ae_titles: AE title"),
        ("[[rules]]\nname = 'a'\ncertificates = 'pacs.example'", "rule 'a': certificates: 'pacs.example' does not"),
        ("[[rules]]\nname = 'a'\ncertificates = 'sha256:ab'", "rule 'a': certificates: 'ab' is no SHA-256"),
        ("[[rules]]\nname = 'a'\ncertificates = 'ip:10.*'", "rule 'a': certificates: '10.*' does not appear to be"),
        (
            "[[rules]]\nname = 'a'\nallow = false\nnetworks = '::ffff:10.0.0.0/104'",
            "rule 'a': networks: '::ffff:10.0.0.0/104' are IPv4 addresses",
        ),
        ("[[rules]]\nname = 'a'\ncertificates = 'cn:'", "rule 'a': certificates: 'cn:' does not begin"),
        ("[[rules]]\nname = 'a'\nservices = 'C-STOR'", "rule 'a': services: there is no DIMSE service 'C-STOR'"),
        ("[[rules]]\nname = 'a'\nservices = 'C-CANCEL'", "rule 'a': services: there is no DIMSE service"),
        ("[[rules]]\nname = 'a'\nsop_classes = 'storge'", "rule 'a': sop_classes: there is no SOP class"),
        ("[[rules]]\nname = 'a'\nsop_classes = 'CT*'", "rule 'a': sop_classes: 'CT*': an asterisk"),
        ("[[rules]]\nname = 'a'\nallow = 'no'", "rule 'a': allow: 'no' is neither"),
        ("[[rules]]\nname = 'a'\nallow = false\nmax_associations = 1", "rule 'a': max_associations: a rule that turns"),
        ("[[rules]]\nname = 'a'\nmax_associations = 0", "rule 'a': max_associations: 0 is no integer of at least 1"),
        ("[[rules]]\nname = 'a'\nmax_associations = 1.5", "rule 'a': max_associations: 1.5 is no integer of"),
        ("[[rules]]\nname = 'a'\nmax_associations = true", "rule 'a': max_associations: True is no integer"),
        ("[[rules]]\nname = 'a'\nrequests_per_second = inf", "rule 'a': requests_per_second: inf is no number"),
        (
            "[[rules]]\nname = 'a'\nassociations_per_second = -1",
            "rule 'a': associations_per_second: -1 is no number of at least 0.001",
        ),
        ("[[rules]\nname = 'a'", "line 1"),
    ],
)
def test_what_has_no_meaning_is_refused_with_file_rule_and_key(text, words, tmp_path):
    (tmp_path / "access.toml").write_text(text)
    with pytest.raises(AccessPolicyError, match=re.escape("access.toml: ")) as caught:
        AccessPolicy.from_toml(tmp_path / "access.toml")
    assert words in str(caught.value)


_KEYS = st.sampled_from([each.name for each in dataclasses.fields(Rule) if each.init] + ["other"])
_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("CT*")
_RULES = st.dictionaries(_KEYS, _VALUES | st.lists(_VALUES, max_size=3), max_size=4)
_POLICIES = st.fixed_dictionaries({}, optional={"default": _VALUES, "rules": st.lists(_RULES | _VALUES, max_size=3)})


@given(_POLICIES)
def test_whatever_is_written_is_a_policy_or_an_error_of_policies(mapping):
    with contextlib.suppress(AccessPolicyError):
        policy = AccessPolicy.from_dict(mapping)
        assert isinstance(policy.judge(Peer("CT1")), Rule | Refusal)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(AccessPolicyError, match=r"none\.toml: No such file"):
        AccessPolicy.from_toml(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"default = '\xff'")
    with pytest.raises(AccessPolicyError, match=r"latin\.toml: "):
        AccessPolicy.from_toml(tmp_path / "latin.toml")


def test_a_policy_is_made_again_from_its_file(tmp_path):
    path = tmp_path / "access.toml"
    path.write_text("")
    policy = AccessPolicy.from_toml(path)
    assert policy.files == (path,)
    path.write_text("default = 'allow'")
    assert (policy.remade().default, policy.default) == ("allow", "deny")
    path.write_text("default = 'alow'")
    with pytest.raises(AccessPolicyError):
        policy.remade()
    plain = AccessPolicy()
    assert (plain.files, plain.remade()) == ((), plain)


def test_a_policy_is_a_value(hospital):
    again = pickle.loads(pickle.dumps(hospital))
    assert (again, again.file, hash(again)) == (hospital, hospital.file, hash(hospital))
    assert [outcome(again, peer) for peer, _ in TABLE] == [outcome(hospital, peer) for peer, _ in TABLE]
    with pytest.raises(dataclasses.FrozenInstanceError):
        hospital.default = "allow"
    with pytest.raises(dataclasses.FrozenInstanceError):
        hospital.rules[0].allow = True


# What rules count


def test_no_more_associations_than_the_rule_has_and_reloads_go_on_counting():
    limits = Limits()
    rule, less = Rule(name="r", max_associations=2), Rule(name="r", max_associations=1)
    admitted = [limits.admit(rule, 0.0) for _ in range(2)]
    for each in admitted:
        each.enter()
    assert limits.admit(rule, 0.0).rejection == AssociateRJ(2, 3, 2)
    assert isinstance(limits.admit(Rule(name="other", max_associations=1), 0.0), Admission)
    admitted[0].leave()
    assert isinstance(limits.admit(rule, 0.0), Admission)
    assert limits.admit(less, 0.0).rejection == AssociateRJ(2, 3, 2)


def test_a_second_s_worth_of_associations_may_come_at_once_and_then_one_by_one():
    limits, rule = Limits(), Rule(name="r", associations_per_second=4)
    times = [10.0] * 6 + [10.24, 10.25, 10.26, 10.5, 20.0]
    found = [isinstance(limits.admit(rule, now), Admission) for now in times]
    assert found == [True] * 4 + [False] * 3 + [True, False, True, True]
    assert limits.admit(Rule(name="r", associations_per_second=0.1), 20.0).rejection == AssociateRJ(2, 3, 1)


def test_less_than_one_association_a_second_is_one_at_once():
    limits, rule = Limits(), Rule(name="r", associations_per_second=0.5)
    found = [isinstance(limits.admit(rule, now), Admission) for now in (0.0, 1.0, 1.9, 2.0, 3.0)]
    assert found == [True, False, False, True, False]


def test_requests_are_counted_over_all_associations_of_a_rule():
    limits, rule = Limits(), Rule(name="r", requests_per_second=2)
    one, other = limits.admit(rule, 0.0), limits.admit(rule, 0.0)
    assert [one.delay(5.0), other.delay(5.0), one.delay(5.0), other.delay(5.0)] == [0.0, 0.5, 1.0, 1.5]
    assert one.delay(100.0) == 0.0
    assert limits.admit(Rule(name="free"), 0.0).delay(0.0) == 0.0


@given(st.floats(0.1, 50), st.lists(st.floats(0, 0.5), max_size=200))
def test_no_rate_is_exceeded_in_any_second_beyond_what_may_come_at_once(rate, pauses):
    limits, rule, now, admitted = Limits(), Rule(name="r", associations_per_second=rate), 0.0, []
    for pause in pauses:
        now += pause
        if isinstance(limits.admit(rule, now), Admission):
            admitted.append(now)
    for start in admitted:
        within = [each for each in admitted if start <= each <= start + 1]
        assert len(within) <= rate + max(1.0, rate) + 1e-6


def test_several_processes_share_what_a_rule_has():
    rule = Rule(name="r", max_associations=5, associations_per_second=6, requests_per_second=6)
    limits = [Limits(3) for _ in range(3)]
    admitted = 0
    for each in limits:
        while isinstance(admission := each.admit(rule, 0.0), Admission):
            admission.enter()
            admitted += 1
    assert admitted == 6  # 2 in each
    assert [admission.delay(1.0) for admission in [Limits(3).admit(rule, 0.0)] for _ in range(3)] == [0.0, 0.5, 1.0]


def test_a_policy_knows_neither_loop_nor_clock():
    from test_layering import PACKAGE, foreign

    assert foreign(PACKAGE / "access.py") & {"asyncio", "time", "socket", "ssl", "threading", "logging"} == set()


# A server that goes by it


async def drop(store_request):
    return Status.SUCCESS


async def find(find_request):
    yield Status.SUCCESS


def serving(*rules, default="deny", **options):
    policy = AccessPolicy(rules, default)
    return asyncdicom.serve("127.0.0.1", 0, **{"c_store": drop, "c_find": find, "access": policy} | options)


async def answer_to(server, pdu):
    async with raw_client(server.port) as peer:
        peer.send(pdu)
        return await peer.receive()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"calling_ae_titles": "RAW"}, None),
        ({"networks": "127.0.0.0/8"}, None),
        ({"calling_ae_titles": "FRIEND"}, CALLING),
        ({"called_ae_titles": "OTHER"}, CALLED),
        ({"networks": "192.0.2.0/24"}, NO_REASON),
        ({"certificates": "cn:*"}, NO_REASON),
        ({"users": "*"}, NO_REASON),
        ({"allow": False}, CALLING),
    ],
)
async def test_a_refusal_has_the_numbers_that_are_right_for_it(rules, expected, caplog):
    async with serving(Rule(name="only", **rules)) as server:
        answer = await answer_to(server, request())
        assert server.statistics.rejected == (expected is not None)
    assert isinstance(answer, AssociateAC) if expected is None else answer == expected
    if expected is not None:
        assert "only" in caplog.text or "no rule" in caplog.text


async def test_contexts_for_what_is_not_allowed_are_rejected_by_the_user():
    async with serving(Rule(name="r", sop_classes=["storage", "1.2.3.4"])) as server:
        answer = await answer_to(server, request(VERIFICATION, CT, STUDY_ROOT_FIND, "1.2.3.4"))
    assert [each.result for each in answer.presentation_contexts] == [
        Result.USER_REJECTION,
        Result.ACCEPTANCE,
        Result.USER_REJECTION,
        Result.ABSTRACT_SYNTAX_NOT_SUPPORTED,
    ]


async def test_roles_and_extensions_of_what_is_not_allowed_are_not_answered():
    contexts = [Context(CT, scu=True, scp=True, extended=b"\2"), Context(MR, scu=True, scp=True, extended=b"\2")]
    async with serving(Rule(name="r", sop_classes=CT), contexts=contexts) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=contexts) as association:
            assert list(association.extended) == [CT]
            assert [each.abstract_syntax for each in association.contexts.values()] == [CT]
            with pytest.raises(asyncdicom.NoAcceptedContext, match="MR Image Storage"):
                await association.c_store(asyncdicom.Instance(MR, "1.2", "1.2.840.10008.1.2.1", length=2, data=b"ab"))


async def test_a_request_without_an_allowed_class_is_rejected_where_a_context_is_required():
    async with serving(Rule(name="r", sop_classes="storage"), require_context=True) as server:
        assert await answer_to(server, request(VERIFICATION)) == NO_REASON
        assert isinstance(await answer_to(server, request(CT)), AssociateAC)


async def test_services_that_are_not_allowed_are_refused_before_a_handler_sees_them(caplog):
    handled = []

    async def store(store_request):
        handled.append(store_request)
        return Status.SUCCESS

    async with serving(Rule(name="r", services=["C-FIND"]), c_store=store) as server:
        contexts = [VERIFICATION, CT, STUDY_ROOT_FIND]
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=contexts) as association:
            assert await association.c_echo() == Status.SOP_CLASS_NOT_SUPPORTED
            instance = asyncdicom.Instance(CT, "1.2", "1.2.840.10008.1.2.1", length=300_000, data=bytes(300_000))
            assert await association.c_store(instance) == Status.NOT_AUTHORIZED
            identifier = bytes.fromhex("0800 5200 4353 0600") + b"STUDY "
            assert [each.status async for each in association.c_find(identifier, model=STUDY_ROOT_FIND)] == []
    assert handled == []
    assert "0124H" in caplog.text
    assert "C-STORE is not allowed" in caplog.text


@pytest.mark.parametrize(("allowed", "status"), [(UPS_WATCH, Status.NOT_AUTHORIZED), ("1.2.840.10008.5.1.4.34.6.*", 0)])
async def test_what_is_refused_of_a_procedure_step_does_not_come_on_another_of_its_contexts(allowed, status):
    async def succeed(_):
        return Status.SUCCESS

    options = {"n_create": succeed, "n_get": succeed, "contexts": [UPS_PUSH, UPS_WATCH]}
    async with serving(Rule(name="r", sop_classes=allowed), **options) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[UPS_PUSH, UPS_WATCH]) as association:
            assert (await association.n_create(UPS_PUSH, Dataset(), "1.2.3", context=UPS_WATCH)).status == status
            assert (await association.n_create(UPS_WATCH, Dataset(), "1.2.3")).status == status
            assert (await association.n_get(UPS_PUSH, "1.2.3", context=UPS_WATCH)).status == 0


async def test_a_refused_c_find_has_the_one_refusal_that_c_find_knows():
    async with serving(Rule(name="r", services=["C-ECHO"])) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[STUDY_ROOT_FIND]) as association:
            responses = association.c_find(b"\x08\0\x52\0CS\6\0STUDY ", model=STUDY_ROOT_FIND)
            assert [each async for each in responses] == []
            assert responses.status == Status.SOP_CLASS_NOT_SUPPORTED
            assert responses.status.error_comment == "not authorized"


async def test_places_of_a_rule_are_free_again_when_associations_end():
    async with serving(Rule(name="r", max_associations=1)) as server:
        async with raw_client(server.port) as peer:
            await peer.associate()
            assert await answer_to(server, request()) == AssociateRJ(2, 3, 2)
        async with asyncio.timeout(DEADLINE):
            while server.associations:
                await asyncio.sleep(0)
        assert isinstance(await answer_to(server, request()), AssociateAC)


async def test_associations_that_come_too_fast_are_congestion():
    async with serving(Rule(name="r", associations_per_second=0.01)) as server:
        answers = [await answer_to(server, request()) for _ in range(3)]
    assert [type(each) for each in answers] == [AssociateAC, AssociateRJ, AssociateRJ]
    assert set(answers[1:]) == {AssociateRJ(2, 3, 1)}


async def test_requests_that_come_too_fast_are_all_answered_in_their_time():
    loop = asyncio.get_running_loop()
    async with serving(Rule(name="r", requests_per_second=50)) as server:
        async with asyncdicom.connect("127.0.0.1", server.port) as association:
            began = loop.time()
            for _ in range(60):
                assert await association.c_echo() == Status.SUCCESS
            assert loop.time() - began > 10 / 50 - 0.02  # 50 at once, and 10 more; uvloop's clock counts milliseconds


async def test_who_sends_requests_without_waiting_is_not_read_until_they_are_paid_for():
    async with serving(Rule(name="r", requests_per_second=20), max_operations_performed=0) as server:
        async with raw_client(server.port) as peer:
            await peer.associate()
            peer.send(*(echo_request(number) for number in range(1, 25)))
            for _ in range(24):
                assert (await peer.receive_command()).status == 0
            (association,) = server.associations
            assert association._connection.is_reading_paused
            peer.send(echo_request(30))
            assert (await peer.receive_command()).message_id_being_responded_to == 30


async def test_an_association_that_ends_while_it_is_not_read_leaves_nothing():
    async with serving(Rule(name="r", requests_per_second=1)) as server:
        async with raw_client(server.port) as peer:
            await peer.associate()
            peer.send(*(echo_request(number) for number in range(1, 5)))
            await peer.receive_command()
            (association,) = server.associations
            assert association._performer._slowed is not None
            association._abort_now()
            assert association._performer._slowed is None
            assert not association._connection.is_reading_paused


async def test_data_sets_come_through_a_pause():
    received = []

    async def store(store_request):
        received.append(len(await store_request.data_set.read(limit=1 << 20)))
        return Status.SUCCESS

    async with serving(Rule(name="r", requests_per_second=20), c_store=store) as server:
        async with raw_client(server.port) as peer:
            await peer.associate()
            for number in range(1, 23):
                peer.send(store_request(number), pdv(3, 2, data_set(5000)))
            for _ in range(22):
                assert (await peer.receive_command()).status == 0
    assert received == [5000] * 22


# Users


async def test_rules_see_the_user_that_the_check_has_verified():
    seen = []

    async def check(identity, association):
        return User(identity.primary.decode().lower(), b"ticket") if identity else False

    async def store(store_request):
        seen.append((store_request.user, store_request.association.user))
        return Status.SUCCESS

    rule = Rule(name="r", users="alice")
    async with serving(rule, user_identity=check, c_store=store) as server:
        for name, expected in (("ALICE", AssociateAC), ("BOB", AssociateRJ)):
            identity = UserIdentity(3, name.encode(), b"", positive_response_requested=True)
            answer = await answer_to(server, request(user_identity=identity))
            assert isinstance(answer, expected)
            if expected is AssociateAC:
                assert answer.user_information.user_identity_response == b"ticket"
        assert await answer_to(server, request()) == AssociateRJ(1, 2, 1)  # by the check
        identity = UserIdentity.of_user("alice")
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[CT], user_identity=identity) as association:
            await association.c_store(asyncdicom.Instance(CT, "1.2", "1.2.840.10008.1.2.1", length=2, data=b"ab"))
    assert seen == [("alice", "alice")]


async def test_a_name_that_nobody_has_verified_is_no_user():
    async def check(identity, association):
        return True

    async with serving(Rule(name="r", users="*"), user_identity=check) as server:
        assert await answer_to(server, request(user_identity=UserIdentity.of_user("alice"))) == NO_REASON


async def test_who_would_be_refused_anyway_is_not_checked():
    checked = []

    async def check(identity, association):
        checked.append(identity)
        return User("alice")

    async with serving(Rule(name="r", users="alice", networks="192.0.2.0/24"), user_identity=check) as server:
        assert await answer_to(server, request(user_identity=UserIdentity.of_user("alice"))) == NO_REASON
    assert checked == []


# Replacing


async def test_an_association_keeps_the_policy_with_which_it_began():
    async with serving(default="allow") as server:
        async with asyncdicom.connect("127.0.0.1", server.port) as association:
            server.replace_access(AccessPolicy((Rule(name="none", services="C-STORE"),)))
            assert server.access.rules[0].name == "none"
            assert await association.c_echo() == Status.SUCCESS
            async with asyncdicom.connect("127.0.0.1", server.port) as other:
                assert await other.c_echo() == Status.SOP_CLASS_NOT_SUPPORTED


async def test_what_waits_for_its_user_is_judged_by_the_policy_with_which_it_began():
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def check(identity, association):
        asked.set()
        await go_on.wait()
        return User("alice")

    async with serving(Rule(name="r", users="alice"), user_identity=check) as server:
        async with raw_client(server.port) as peer:
            peer.send(request(user_identity=UserIdentity.of_user("alice")))
            await asked.wait()
            server.replace_access(AccessPolicy())
            go_on.set()
            assert isinstance(await peer.receive(), AssociateAC)
        assert await answer_to(server, request()) == CALLING


LOOSE = AccessPolicy((Rule(name="all"),))
STRICT = AccessPolicy(
    (
        Rule(name="denied", allow=False, calling_ae_titles="D*"),
        Rule(name="some", services="C-STORE", sop_classes=["verification", CT]),
    )
)


def observed(answer):
    return answer if isinstance(answer, AssociateRJ) else tuple(each.result for each in answer.presentation_contexts)


EXPECTED = {  # by calling AE title: what either policy answers to Verification, CT, study root; and to a C-ECHO
    "DENIED": {((0, 0, 0), 0), (NO_REASON, None)},
    "SOME": {((0, 0, 0), 0), ((0, 0, 1), 0x0122)},
}


async def test_nobody_is_answered_by_a_mixture_of_two_policies():
    seen = {calling: set() for calling in EXPECTED}
    done = 0

    async def client(server, calling):
        nonlocal done
        for _ in range(60):
            async with raw_client(server.port) as peer:
                peer.send(request(VERIFICATION, CT, STUDY_ROOT_FIND, calling=calling))
                answer = observed(await peer.receive())
                statuses = set()
                for number in range(1, 6) if isinstance(answer, tuple) else ():
                    peer.send(echo_request(number))
                    statuses.add((await peer.receive_command()).status)
                assert len(statuses) <= 1  # the same for as long as it lives
                seen[calling].add((answer, statuses.pop() if statuses else None))
        done += 1

    async with serving(c_store=drop) as server:
        server.replace_access(LOOSE)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for calling in (*EXPECTED, *EXPECTED):
                group.create_task(client(server, calling))
            swaps, chance = 0, random.Random(1)  # not one after the other: clients are in step with the loop
            while done < 2 * len(EXPECTED):
                swaps += 1
                server.replace_access(chance.choice((STRICT, LOOSE)))
                await asyncio.sleep(0)
    assert seen == EXPECTED
    assert swaps > 100
    assert {name: usage.associations for name, usage in server._limits._usages.items()} == {"all": 0, "some": 0}


async def test_a_changed_file_is_a_new_policy_and_a_broken_one_is_none(tmp_path):
    path = tmp_path / "access.toml"
    path.write_text("default = 'allow'")
    async with asyncdicom.serve("127.0.0.1", 0, access=path) as server:
        assert isinstance(await answer_to(server, request()), AssociateAC)
        path.write_text("default = 'alow'")
        with pytest.raises(AccessPolicyError, match=r"access\.toml: default"):
            server.reload()
        assert isinstance(await answer_to(server, request()), AssociateAC)
        path.write_text("default = 'deny'")
        server.reload()
        assert await answer_to(server, request()) == CALLING


async def test_a_changed_file_is_seen_without_being_told(tmp_path):
    path = tmp_path / "access.toml"
    path.write_text("default = 'allow'")
    async with asyncdicom.serve("127.0.0.1", 0, access=path, reload_interval=0.01) as server:
        await asyncio.sleep(0)  # it has looked at the file
        path.with_suffix(".new").write_text("default = 'deny'")
        path.with_suffix(".new").rename(path)
        async with asyncio.timeout(DEADLINE):
            while server.access.default != "deny":
                await asyncio.sleep(0.01)
        assert await answer_to(server, request()) == CALLING


# Certificates


async def test_rules_see_the_certificate_that_a_peer_has_shown(tmp_path):
    pki = Certificates(tmp_path)
    server_tls = server_context(*pki.server, trusted=pki.ca.file, client_certificate="optional")
    rules = (
        Rule(name="client", certificates="cn:client", services="C-ECHO"),
        Rule(name="server", certificates="dns:local*", services="C-STORE"),
    )
    async with serving(*rules, ssl=server_tls) as server:
        for shown, expected in (("client", Status.SUCCESS), ("rsa", Status.SOP_CLASS_NOT_SUPPORTED)):
            tls = client_context(trusted=pki.ca.file, **getattr(pki, shown)._asdict())
            async with asyncdicom.connect("localhost", server.port, ssl=tls) as association:
                assert await association.c_echo() == expected
        with pytest.raises(asyncdicom.AssociationRejected, match="no reason given"):
            await asyncdicom.connect("localhost", server.port, ssl=client_context(trusted=pki.ca.file))


async def test_a_certificate_that_cannot_be_read_does_not_get_past_a_rule_and_is_known_by_its_fingerprint(
    certificates, caplog
):
    odd = certificates.ca.issue_unreadable("odd")
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(odd.certificate.read_text())).hexdigest()
    server_tls = server_context(*certificates.server, trusted=certificates.ca.file, client_certificate="required")
    tls = ssl.create_default_context(cafile=certificates.ca.file)
    tls.load_cert_chain(*odd)
    known, banned = (
        Rule(name="known", certificates=f"sha256:{fingerprint}"),
        Rule(name="banned", allow=False, certificates="cn:x"),
    )
    async with asyncdicom.serve("127.0.0.1", 0, ssl=server_tls) as server:
        for rules, admitted in (((banned,), False), ((known, banned), True)):
            server.replace_access(AccessPolicy(rules, "allow"))
            with contextlib.nullcontext() if admitted else pytest.raises(asyncdicom.AssociationRejected):
                await (await asyncdicom.connect("localhost", server.port, ssl=tls)).release()
    assert "the certificate of 127.0.0.1 is known by its fingerprint only: " in caplog.text
    assert f"(127.0.0.1, SHA-256 {fingerprint})" in caplog.text


# Workers


async def test_workers_take_the_policy_with_them(tmp_path):
    import worker_handlers

    path = tmp_path / "access.toml"
    path.write_text("[[rules]]\nname = 'raw'\ncalling_ae_titles = 'RAW'\n")
    serving = asyncdicom.serve("127.0.0.1", 0, c_store=worker_handlers.drop, access=path, workers=2)
    async with serving as server:
        assert isinstance(await answer_to(server, request()), AssociateAC)
        assert await answer_to(server, request(calling="OTHER")) == CALLING


async def test_all_workers_have_another_policy_when_their_parent_has(tmp_path):
    path = tmp_path / "access.toml"
    path.write_text("default = 'allow'")
    async with asyncdicom.serve("127.0.0.1", 0, access=path, workers=2) as server:
        for policy in (STRICT, None):
            if policy is None:
                path.write_text("default = 'deny'")
                server.replace_access(AccessPolicy.from_toml(path))
                server.reload()
            else:
                server.replace_access(policy)
            expected = [NO_REASON if policy else CALLING] * 8  # four for each worker
            async with asyncio.timeout(DEADLINE):
                while [await answer_to(server, request(calling="DENIED")) for _ in expected] != expected:
                    pass


async def test_a_worker_that_is_being_started_has_the_policy_that_came_meanwhile():
    async with asyncdicom.serve("127.0.0.1", 0, access=AccessPolicy(default="allow"), workers=2) as server:
        os.kill(server.processes[0], signal.SIGKILL)
        async with asyncio.timeout(DEADLINE):
            while len(server.processes) == 2 or len(server._workers) < 2:
                await asyncio.sleep(0.001)
            server.replace_access(AccessPolicy())
            while len(server.processes) < 2:
                await asyncio.sleep(0.01)
        assert [await answer_to(server, request()) for _ in range(8)] == [CALLING] * 8


async def test_a_policy_that_does_not_fit_in_one_write_comes_to_all_workers():
    rules = tuple(Rule(name=f"{number}", certificates=(f"sha256:{number:064x}",)) for number in range(5000))
    async with asyncdicom.serve("127.0.0.1", 0, access=AccessPolicy(default="allow"), workers=2) as server:
        server.replace_access(AccessPolicy(rules))
        server.replace_access(AccessPolicy((*rules, Rule(name="raw", calling_ae_titles="RAW"))))
        answers = [await answer_to(server, request(calling=title)) for title in ("OTHER", "RAW") * 4]
        assert [type(each) for each in answers] == [AssociateRJ, AssociateAC] * 4


async def test_a_file_that_cannot_be_used_is_no_server(tmp_path):
    with pytest.raises(AccessPolicyError, match=r"none\.toml"):
        asyncdicom.serve(access=tmp_path / "none.toml")
