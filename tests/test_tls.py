import contextlib
import os
import pickle
import re
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from certificates import DAY, DER, KEYS, NOW, PASSWORD, PEM, Authority, load_key, write_key
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from standard_tables import TLS_PROFILES
from tls_wire import (
    CLIENT_HELLO,
    SCSV,
    SERVER_KEY_EXCHANGE,
    answer,
    client_hello,
    client_hello_bytes,
    handshake,
    messages,
    offering,
)

import asyncdicom
from asyncdicom.errors import TLSConfigurationError
from asyncdicom.tls import (
    PROFILES,
    Context,
    PeerCertificate,
    certificate_of,
    check_peer,
    client_context,
    describe,
    profile_of,
    server_context,
)

ROOT = Path(__file__).parent.parent
SUITES = TLS_PROFILES["suites"]
GROUPS = TLS_PROFILES["groups"]
SECTIONS = TLS_PROFILES["profiles"]


def has(suite):
    """Whether this OpenSSL has a suite of TLS 1.2."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(suite)
    except ssl.SSLError:
        return False
    return True


HAS_3DES = has("DES-CBC3-SHA:@SECLEVEL=0")
CAN_SET_TLS13 = hasattr(ssl.SSLContext, "set_ciphersuites")
HAS_CCM_8 = ssl.OPENSSL_VERSION_INFO < (3, 2)
"""Later it is below the security level that looks at keys."""
AS_CLIENT = [each for each in SECTIONS if each != "B.1" or HAS_3DES]
AS_SERVER = [each for each in AS_CLIENT if each != "B.13" or (CAN_SET_TLS13 and HAS_CCM_8)]
NUMBERS = {"1.0": 0x0301, "1.1": 0x0302, "1.2": 0x0303, "1.3": 0x0304}

every_profile = pytest.mark.parametrize("section", SECTIONS)
every_client = pytest.mark.parametrize("section", AS_CLIENT)
every_server = pytest.mark.parametrize("section", AS_SERVER)


@pytest.fixture
def server(certificates):
    """A server's context, by its options; the ordinary one without any."""

    def make(pair=certificates.server, **options):
        return server_context(*pair, **options)

    return make


@pytest.fixture
def client(certificates):
    """A client's context that trusts the CA, and shows a certificate if one is given."""

    def make(pair=(None, None), **options):
        return client_context(certificate=pair[0], key=pair[1], **{"trusted": certificates.ca.file} | options)

    return make


@pytest.fixture
def anything(certificates):
    """A context that knows no profile: all versions, all suites, no checks."""

    def make(*, server=None, suites="ALL:@SECLEVEL=0", version=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if server is None else ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers(suites)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        if version is not None:
            context.maximum_version = version
        if server is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        else:
            context.load_cert_chain(*server)
        return context

    return make


def codes_of(names):
    return {SUITES[name]["code"] for name in names}


def said(outcome):
    """What each end says, in words."""
    return [error and describe(error) for error in (outcome.client_error, outcome.server_error)]


def succeeds(outcome):
    return said(outcome) == [None, None]


# Profiles as data


@every_profile
def test_a_profile_is_that_of_the_table(section):
    expected, profile = SECTIONS[section], profile_of(section)
    assert (profile.name, profile.section, profile.retired) == (expected["name"], section, expected["retired"])
    assert profile is profile_of(expected["name"]) is PROFILES[expected["name"]]
    assert (profile.rsa_bits, profile.hash_bits) == (expected["rsa_bits"], expected["hash_bits"])
    assert expected["ec_bits"] in (None, profile.ec_bits)
    assert {*profile.suites, *profile.tls13_suites} <= {*expected["required"], *expected["optional"]}
    assert {*profile.suites, *profile.tls13_suites} >= {*expected["required"]}


def test_the_profiles_are_all_that_the_table_has():
    assert {profile.section for profile in PROFILES.values()} == set(SECTIONS)


def test_only_names_that_say_so_stand_for_what_protects_nothing():
    weak = {
        name for name, each in PROFILES.items() if each.security_level == 0 or each.minimum < ssl.TLSVersion.TLSv1_2
    }
    assert weak == {name for name in PROFILES if name.startswith("legacy-")}


def test_a_profile_that_is_not_there_is_refused_with_those_that_are(client):
    with pytest.raises(TLSConfigurationError, match=r"'8997'.* 8996 \(B\.12\), 8996-mod \(B\.13\)"):
        client(profile="8997")


# What a client offers


@every_client
def test_a_client_offers_the_versions_of_its_profile(client, section):
    offered = client_hello(client(profile=section))
    versions = SECTIONS[section]["versions"]
    assert offered.version == "1.2"  # all that this field ever says (RFC 8446 4.1.2)
    assert offered.versions <= set(versions)
    assert max(offered.versions or {offered.version}) == max(versions)


@every_client
def test_a_client_offers_the_suites_of_its_profile(client, section):
    offered = set(client_hello(client(profile=section)).suites) - {SCSV}
    required = codes_of(SECTIONS[section]["required"])
    assert offered <= required | codes_of(SECTIONS[section]["optional"])
    if "client" in SECTIONS[section]:  # at least one of them
        assert offered & required
    else:
        assert offered >= required


@every_client
def test_a_client_offers_no_group_that_is_too_small(client, section):
    groups = client_hello(client(profile=section)).groups
    least = SECTIONS[section]["ec_bits"] or 0
    small = {code for code, each in GROUPS.items() if each["bits"] < least}
    assert not small & set(groups)
    if least:
        assert {"001D", "0017"} <= set(groups) <= set(GROUPS)


@every_client
def test_a_client_offers_no_weak_signature(client, section):
    offered = client_hello(client(profile=section)).signature_algorithms
    hashes_of = {code[:2] for code in offered}
    assert "04" in hashes_of  # SHA-256 (RFC 9325 4.2.1)
    if SECTIONS[section]["hash_bits"] >= 256:
        assert not hashes_of & {"01", "02"}  # MD5, SHA-1 (RFC 5246 7.4.1.4.1)


@every_client
def test_a_client_says_dicom_and_the_host_name(client, section):
    offered = client_hello(client(profile=section), "pacs.example")
    assert (offered.alpn, offered.server_name) == (["dicom"], "pacs.example")
    assert client_hello(client(profile=section), "192.0.2.1").server_name == ""


def test_a_suite_can_be_added_by_either_name(client):
    for name in ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384", "ECDHE-RSA-AES256-SHA384"):
        assert "C028" in client_hello(client(ciphers=[name])).suites


@pytest.mark.parametrize("suite", sorted(name for name, each in SUITES.items() if "openssl" in each))
def test_the_names_of_suites_are_those_of_the_table(client, suite):
    from asyncdicom.tls import _openssl_name

    assert _openssl_name(suite).replace("DH-anon", "ADH") == SUITES[suite]["openssl"]


@pytest.mark.parametrize("suite", ["TLS_RSA_WITH_NULL_SHA", "ADH-AES128-SHA256", "AECDH-AES256-SHA"])
def test_no_suite_can_be_added_that_protects_nothing(client, suite):
    with pytest.raises(TLSConfigurationError, match="protects nothing"):
        client(ciphers=[suite])


@pytest.mark.parametrize(
    "suite", ["TLS_ECDHE_RSA_WITH_CAMELLIA_256_GCM_SHA384", "TLS_RSA_WITH_RC4_128_SHA", "nonsense"]
)
def test_a_suite_that_openssl_lacks_is_refused(client, suite):
    with pytest.raises(TLSConfigurationError, match=f"OpenSSL.* cannot do {suite}"):
        client(ciphers=[suite])


@pytest.mark.parametrize("section", ["B.13", "B.11"])
def test_profiles_that_permit_no_others_take_no_others(client, section):
    with pytest.raises(TLSConfigurationError, match="no other suites"):
        client(profile=section, ciphers=["ECDHE-RSA-AES256-SHA384"])


@pytest.mark.parametrize(("group", "code"), [("x25519", "001D"), ("secp256r1", "0017"), ("SECP384R1", "0018")])
def test_a_group_can_be_chosen(client, group, code):
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ecdh_curve("X25519")
    except ssl.SSLError:  # CPython 3.11.2
        if group == "x25519":
            with pytest.raises(TLSConfigurationError, match="this Python's ssl cannot set the group x25519"):
                client(groups=[group])
            return
    assert client_hello(client(groups=[group])).groups == [code]


@pytest.mark.parametrize(("section", "group"), [("B.13", "secp224r1"), ("B.12", "sect163k1"), ("B.12", "nonsense")])
def test_a_group_that_is_too_small_or_unknown_is_refused(client, section, group):
    with pytest.raises(TLSConfigurationError, match=f"no group {group}; it has x25519"):
        client(profile=section, groups=[group])


@pytest.mark.skipif(hasattr(ssl.SSLContext, "set_groups"), reason="this Python can")
def test_several_groups_are_refused_where_python_sets_one_only(client):
    with pytest.raises(TLSConfigurationError, match="one group only"):
        client(groups=["x25519", "secp256r1"])


# What a server accepts


def pair_for(certificates, suite):
    return certificates.server if "_ECDSA_" in suite else certificates.rsa


def offer_of(anything, suite, version=None):
    highest = ssl.TLSVersion.TLSv1_3 if SUITES[suite]["code"].startswith("13") else ssl.TLSVersion.TLSv1_2
    return offering(client_hello_bytes(anything(version=highest)), SUITES[suite]["code"], version)


@pytest.mark.parametrize("suite", SUITES)
@every_server
def test_a_server_accepts_the_suites_of_its_profile_and_no_others(server, certificates, anything, section, suite):
    rsa_only = "legacy" in SECTIONS[section]["name"]
    context = server(certificates.rsa if rsa_only else pair_for(certificates, suite), profile=section)
    chosen, _, alert = answer(context, offer_of(anything, suite))
    profile = profile_of(section)
    if suite in (*profile.suites, *profile.tls13_suites):
        assert chosen.suites == [SUITES[suite]["code"]]
        assert chosen.versions == ({"1.3"} if suite in profile.tls13_suites else set())
        assert chosen.version == "1.2"
    else:
        assert chosen is None
        assert alert in (40, 70)  # handshake_failure, protocol_version


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
@every_server
def test_a_server_accepts_the_versions_of_its_profile_and_no_others(server, certificates, anything, section, version):
    context = server(certificates.rsa, profile=section)
    suite = next(name for name in (*profile_of(section).suites,) if "_ECDSA_" not in name)
    chosen, _, alert = answer(context, offer_of(anything, suite, NUMBERS[version]))
    if version in SECTIONS[section]["versions"]:
        assert chosen.version == version
    else:
        assert (chosen, alert) == (None, 70)  # protocol_version


@every_server
def test_a_server_with_tls_1_3_prefers_it(server, certificates, client, section):
    outcome = handshake(client(), server(certificates.rsa, profile=section, ciphers=_gcm(section)))
    assert outcome.client.version() == ("TLSv1.3" if profile_of(section).tls13_suites else "TLSv1.2")


def _gcm(section):
    """What a client of today needs of a profile that has nothing of today."""
    return () if profile_of(section).security_level else ["ECDHE-RSA-AES128-GCM-SHA256"]


@pytest.mark.parametrize("suite", ["TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384"])
@pytest.mark.parametrize("section", ["B.9", "B.10", "B.11"])
def test_ephemeral_diffie_hellman_has_2048_bits(server, certificates, anything, section, suite):
    _, by_kind, _ = answer(server(certificates.rsa, profile=section), offer_of(anything, suite))
    assert int.from_bytes(by_kind[SERVER_KEY_EXCHANGE][:2]) * 8 == SECTIONS[section]["dh_bits"]


def test_diffie_hellman_parameters_can_be_given(server, certificates, anything, tmp_path):
    from asyncdicom.tls import _FFDHE2048

    file = tmp_path / "dh.pem"
    file.write_bytes(_FFDHE2048)
    context = server(certificates.rsa, profile="B.10", dh_parameters=file)
    chosen, _, _ = answer(context, offer_of(anything, "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256"))
    assert chosen.suites == ["009E"]
    assert file in context.files


DH_512 = b"""-----BEGIN DH PARAMETERS-----
MEYCQQDaWDwW2YUiidDkr3VvTMqS3UvlM7gE+w/tlO+cikQD7VdGUNNpmdsp13Yn
a6LT1BLiGPTdHghM9tgAPnxHdOgzAgEC
-----END DH PARAMETERS-----
"""
"""The group that the first TLS libraries came with, and that was broken."""


@pytest.mark.parametrize(("data", "words"), [(DH_512, "has 2048 bits or more"), (b"x", "no Diffie-Hellman parameters")])
def test_short_or_broken_diffie_hellman_parameters_are_refused(server, certificates, tmp_path, data, words):
    (tmp_path / "dh.pem").write_bytes(data)
    with pytest.raises(TLSConfigurationError, match=words):
        server(certificates.rsa, profile="B.10", dh_parameters=tmp_path / "dh.pem")
    with pytest.raises(TLSConfigurationError, match="no DHE suites"):
        server(certificates.rsa, dh_parameters=tmp_path / "dh.pem")


@pytest.mark.skipif(HAS_3DES, reason="this OpenSSL has 3DES")
def test_the_basic_profile_is_refused_without_3des(client, server, certificates):
    for make in (client, lambda **options: server(certificates.rsa, **options)):
        with pytest.raises(TLSConfigurationError, match=r"B\.1\).* cannot do TLS_RSA_WITH_3DES_EDE_CBC_SHA"):
            make(profile="legacy-basic")


@pytest.mark.skipif("B.13" in AS_SERVER, reason="this Python can")
def test_the_modified_profile_is_refused_to_a_server_that_lacks_suites_of_it(server):
    with pytest.raises(TLSConfigurationError, match=r"cannot do TLS_.*_CCM.*Ciphersuites"):
        server(profile="8996-mod")


ALL_FIVE = """
openssl_conf = a
[a]
ssl_conf = b
[b]
system_default = c
[c]
Ciphersuites = TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256{}
"""


@pytest.mark.skipif(not HAS_CCM_8, reason="CCM_8 is below the security level from OpenSSL 3.2 on")
def test_a_server_has_the_modified_profile_where_openssl_is_configured_for_it(certificates, anything, tmp_path):
    (tmp_path / "openssl.cnf").write_text(ALL_FIVE.format(":TLS_AES_128_CCM_SHA256:TLS_AES_128_CCM_8_SHA256"))
    for suite in SECTIONS["B.13"]["required"]:
        (tmp_path / suite).write_bytes(offer_of(anything, suite))
    pairs = [[str(file) for file in pair] for pair in (certificates.server, certificates.rsa)]
    code = f"""
from pathlib import Path
from asyncdicom.tls import server_context
from tls_wire import answer
for suite in {SECTIONS["B.13"]["required"]!r}:
    pair = {pairs}["RSA" in suite]
    chosen, _, _ = answer(server_context(*pair, profile="8996-mod"), Path(suite).read_bytes())
    print(*chosen.suites)
"""
    assert run(code, tmp_path).split() == [SUITES[suite]["code"] for suite in SECTIONS["B.13"]["required"]]


def test_a_suite_of_tls_1_3_that_the_profile_forbids_is_found_in_openssls_configuration(certificates, tmp_path):
    (tmp_path / "openssl.cnf").write_text(ALL_FIVE.format(":TLS_AES_128_CCM_SHA256"))
    code = "from asyncdicom.tls import client_context\ntry: client_context()\nexcept ValueError as error: print(error)"
    assert "OpenSSL's configuration has TLS_AES_128_CCM_SHA256" in run(code, tmp_path)


def run(code, folder):
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {**os.environ, "OPENSSL_CONF": str(folder / "openssl.cnf"), "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


# Both together


@pytest.mark.parametrize("pair", ["server", "rsa"])
@every_server
def test_both_ends_of_a_profile_meet(server, client, certificates, section, pair):
    pair = certificates.rsa if "legacy" in SECTIONS[section]["name"] else getattr(certificates, pair)
    context = server(pair, profile=section, trusted=certificates.ca.file, client_certificate="required")
    outcome = handshake(client(pair, profile=section), context)
    assert succeeds(outcome)
    assert outcome.client.selected_alpn_protocol() == "dicom"
    assert certificate_of(outcome.server.getpeercert(binary_form=True)).dns_names == ("localhost",)


def test_a_client_of_the_modified_profile_meets_an_ordinary_server(server, client):
    assert succeeds(handshake(client(profile="8996-mod"), server()))


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("older", [True, False])
def test_a_peer_that_stops_at_tls_1_2_is_met(  # noqa: PLR0917 - fixtures
    server, client, anything, certificates, kind, older
):
    pair = certificates.server if kind == "ec" else certificates.rsa
    if older:
        outcome = handshake(anything(version=ssl.TLSVersion.TLSv1_2), server(pair))
    else:
        outcome = handshake(client(), anything(server=pair, version=ssl.TLSVersion.TLSv1_2))
    assert succeeds(outcome)
    assert outcome.client.version() == "TLSv1.2"


def test_no_session_can_be_resumed(server, client, anything):
    outcome = handshake(client(), server())
    assert not outcome.client.session.has_ticket
    outcome = handshake(anything(version=ssl.TLSVersion.TLSv1_2), server())
    assert not outcome.client.session.has_ticket


@pytest.mark.parametrize(
    ("mode", "shown", "meets"),
    [
        ("required", "client", True),
        ("required", None, False),
        ("required", "stranger", False),
        ("optional", "client", True),
        ("optional", None, True),
        ("optional", "stranger", False),
        ("off", "client", True),
        ("off", "stranger", True),
        ("off", None, True),
    ],
)
def test_a_client_certificate_is_required_or_optional_or_not_asked_for(  # noqa: PLR0917 - fixtures
    server, client, certificates, mode, shown, meets
):
    context = server(client_certificate=mode, trusted=certificates.ca.file)
    pair = getattr(certificates, shown) if shown else (None, None)
    outcome = handshake(client(pair), context)
    assert succeeds(outcome) is meets
    if meets:
        asked = mode != "off" and shown is not None
        assert bool(outcome.server.getpeercert(binary_form=True)) is asked


def test_client_certificates_need_somebody_who_vouches_for_them(server):
    with pytest.raises(TLSConfigurationError, match="name who vouches for them in trusted"):
        server(client_certificate="required")


@pytest.mark.parametrize("argument", ["client_certificate", "check_crls"])
def test_a_word_that_means_nothing_is_refused(server, argument):
    with pytest.raises(TLSConfigurationError, match=f"{argument} is one of off, .* and not 'maybe'"):
        server(**{argument: "maybe"})


def test_a_certificate_is_good_for_its_address(server, client):
    assert succeeds(handshake(client(), server(), "127.0.0.1"))
    assert said(handshake(client(), server(), "127.0.0.2"))[0].endswith("'127.0.0.2'; it is for localhost, 127.0.0.1")


def test_a_host_name_need_not_be_checked(server, client, certificates):
    context = server(certificates.elsewhere)
    assert not succeeds(handshake(client(), context))
    assert succeeds(handshake(client(check_host_name=False), context))
    assert succeeds(handshake(client(trusted=(), verify="off"), context))


def test_without_trusted_certificates_the_systems_are_taken(client):
    mine, theirs = client(trusted=()), ssl.create_default_context()
    assert mine.verify_mode == ssl.CERT_REQUIRED
    assert mine.cert_store_stats() == theirs.cert_store_stats()


async def test_an_association_is_made_over_it(server, client, certificates):
    context = server(trusted=certificates.ca.file, client_certificate="required")
    async with asyncdicom.serve("127.0.0.1", 0, ssl=context) as running:
        port = running.port
        async with asyncdicom.connect("127.0.0.1", port, ssl=client(certificates.client)) as association:
            assert await association.c_echo() == asyncdicom.Status.SUCCESS


# Server names


@pytest.fixture
def named(certificates):
    return {"PACS.example": certificates.elsewhere}


@pytest.mark.parametrize(("name", "whose"), [("pacs.example", "elsewhere"), ("localhost", "server"), (None, "server")])
def test_a_client_gets_the_certificate_of_the_name_it_asks_for(  # noqa: PLR0917 - fixtures
    server, client, certificates, named, name, whose
):
    outcome = handshake(client(check_host_name=False), server(server_names=named), name)
    assert certificate_of(outcome.client.getpeercert(binary_form=True)).common_name == whose


def test_a_further_name_has_the_same_rules(server, client, certificates, named):
    context = server(server_names=named, client_certificate="required", trusted=certificates.ca.file, profile="B.10")
    assert succeeds(handshake(client(certificates.client), context, "pacs.example"))
    assert "no certificate" in said(handshake(client(), context, "pacs.example"))[1]


@pytest.mark.parametrize("name", ["localhost", None])
def test_other_names_can_be_refused(server, client, named, name):
    context = server(server_names=named, refuse_other_names=True)
    ours, theirs = said(handshake(client(check_host_name=False), context, name))
    assert ours == "the peer refused: it does not serve the host name that was asked for"
    assert theirs == "the client asked for a host name that is not served here"
    assert succeeds(handshake(client(), context, "pacs.example"))


# Revocation


@pytest.mark.parametrize("encoding", [PEM, DER], ids=["PEM", "DER"])
def test_a_revoked_certificate_is_refused(server, client, certificates, encoding):
    crl = certificates.ca.revoke(certificates.revoked, name="some.crl", encoding=encoding)
    ours, theirs = said(handshake(client(crls=crl), server(certificates.revoked)))
    assert ours == "the peer's certificate was not accepted: it has been revoked"
    assert theirs == "the peer refused: this side's certificate has been revoked"
    context = server(client_certificate="required", trusted=certificates.ca.file, crls=[crl])
    assert "revoked" in said(handshake(client(certificates.revoked), context))[1]
    assert succeeds(handshake(client(certificates.client), context))
    assert crl in context.files


def test_a_folder_can_hold_revocation_lists(server, client, certificates, tmp_path):
    shutil.copy(certificates.crl, tmp_path / "a1b2c3d4.r0")
    shutil.copy(certificates.ca.file, tmp_path / "ca.pem")
    context = client(crls=tmp_path)
    assert not succeeds(handshake(context, server(certificates.revoked)))
    assert {tmp_path, tmp_path / "a1b2c3d4.r0"} < set(context.files)


@pytest.mark.parametrize(("check", "meets"), [("certificate", True), ("chain", False)])
def test_a_chain_needs_a_list_of_each_ca(server, client, certificates, check, meets):
    crl = certificates.intermediate.revoke(name="intermediate.crl")
    outcome = handshake(client(crls=crl, check_crls=check), server(certificates.chained))
    assert succeeds(outcome) is meets
    assert meets or "no revocation list of its CA" in said(outcome)[0]


def test_a_list_that_is_out_of_date_is_none(server, client, certificates):
    crl = certificates.ca.revoke(valid=(-3 * DAY, -DAY), name="old.crl")
    assert "list of its CA is out of date" in said(handshake(client(crls=crl), server()))[0]


def test_lists_and_whether_to_look_at_them_go_together(client, certificates):
    with pytest.raises(TLSConfigurationError, match="check_crls is 'chain', and crls names none"):
        client(check_crls="chain")
    with pytest.raises(TLSConfigurationError, match="check_crls is 'off', and crls names some"):
        client(check_crls="off", crls=certificates.crl)


@pytest.mark.parametrize("data", [b"", b"0junk", b"-----BEGIN X509 CRL-----\nAAA\n-----END X509 CRL-----"])
def test_what_is_no_revocation_list_is_refused(client, tmp_path, data):
    (tmp_path / "a.crl").write_bytes(data)
    with pytest.raises(TLSConfigurationError, match=r"a\.crl"):
        client(crls=tmp_path / "a.crl")


# Files


def test_a_chain_is_sent_with_the_certificate(server, client, certificates):
    assert succeeds(handshake(client(), server(certificates.chained)))


def test_trusted_certificates_come_from_files_and_folders(server, client, certificates, tmp_path):
    der = x509.load_pem_x509_certificate(certificates.ca.file.read_bytes()).public_bytes(DER)
    (tmp_path / "ca.der").write_bytes(der)
    (tmp_path / "folder").mkdir()
    for name in ("a.pem", "b.CRT", "0a1b2c3d.0", "notes.txt", "key.pem"):
        source = certificates.server.key if name == "key.pem" else certificates.ca.file
        shutil.copy(source, tmp_path / "folder" / name)
    for trusted in (tmp_path / "ca.der", [tmp_path / "folder"], str(tmp_path / "folder")):
        assert succeeds(handshake(client(trusted=trusted), server()))
    files = client(trusted=tmp_path / "folder").files
    assert [file.name for file in files] == ["folder", "0a1b2c3d.0", "a.pem", "b.CRT"]


def test_several_certificates_of_one_file_are_trusted(server, client, certificates, tmp_path):
    (tmp_path / "both.pem").write_text(
        "comment\n" + certificates.other_ca.file.read_text() + certificates.ca.file.read_text()
    )
    context = client(trusted=tmp_path / "both.pem")
    assert context.cert_store_stats()["x509_ca"] == 2
    assert succeeds(handshake(context, server()))
    assert succeeds(handshake(context, server(certificates.stranger)))


@pytest.mark.parametrize("data", [None, b"", b"0junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_a_file_without_certificates_cannot_be_trusted(client, tmp_path, data):
    if data is not None:
        (tmp_path / "ca.pem").write_bytes(data)
    with pytest.raises(TLSConfigurationError, match=r"ca\.pem"):
        client(trusted=tmp_path / "ca.pem")


def test_a_folder_without_certificates_cannot_be_trusted(client, tmp_path):
    with pytest.raises(TLSConfigurationError, match="there is no certificate in"):
        client(trusted=tmp_path)


def test_certificate_and_key_may_share_a_file(server, client, certificates, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(certificates.server.key.read_bytes() + certificates.server.certificate.read_bytes())
    assert succeeds(handshake(client(), server([both])))


def secret():
    return PASSWORD.encode()


@pytest.mark.parametrize("password", [PASSWORD, PASSWORD.encode(), secret])
@pytest.mark.parametrize("encoding", [PEM, DER], ids=["PEM", "DER"])
def test_a_key_may_have_a_password(  # noqa: PLR0917 - fixtures
    server, client, certificates, tmp_path, encoding, password
):
    key = write_key(tmp_path / "key", load_key(certificates.server), PASSWORD, encoding)
    context = server((certificates.server.certificate, key), password=password)
    assert succeeds(handshake(client(), pickle.loads(pickle.dumps(context))))


@pytest.mark.parametrize("encoding", [PEM, DER], ids=["PEM", "DER"])
def test_a_wrong_password_is_an_error_and_none_no_prompt(server, certificates, tmp_path, encoding):
    key = write_key(tmp_path / "the.key", load_key(certificates.server), PASSWORD, encoding)
    for wrong in ("wrong", b"", lambda: "wrong"):
        with pytest.raises(TLSConfigurationError, match=r"the\.key cannot be decrypted: the password is wrong"):
            server((certificates.server.certificate, key), password=wrong)
    with pytest.raises(TLSConfigurationError, match=r"the\.key is encrypted: give its password"):
        server((certificates.server.certificate, key))


def test_certificate_and_key_may_be_der(server, client, certificates, tmp_path):
    pem = certificates.server.certificate.read_bytes()
    (tmp_path / "certificate.der").write_bytes(x509.load_pem_x509_certificate(pem).public_bytes(DER))
    key = write_key(tmp_path / "key.der", load_key(certificates.server), None, DER)
    assert succeeds(handshake(client(), server((tmp_path / "certificate.der", key))))


def test_no_password_and_no_key_show(server, certificates, tmp_path):
    key = write_key(tmp_path / "the.key", load_key(certificates.server), PASSWORD)
    context = server((certificates.server.certificate, key), password=PASSWORD)
    assert PASSWORD not in f"{context!r} {vars(context)!r}"


def test_a_key_of_another_certificate_is_refused(server, certificates):
    with pytest.raises(TLSConfigurationError, match="is not the one of the certificate"):
        server((certificates.server.certificate, certificates.client.key))


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_file_is_named(server, certificates, missing):
    pair = list(certificates.server)
    pair[missing] = Path("/nowhere/file.pem")
    with pytest.raises(TLSConfigurationError, match=r"/nowhere/file\.pem cannot be read: No such file"):
        server(pair)


def test_a_key_in_the_place_of_the_certificate_is_recognized(server, certificates):
    with pytest.raises(TLSConfigurationError, match="are key and certificate in the wrong order"):
        server((certificates.server.key, certificates.server.certificate))


def test_what_is_no_certificate_or_no_key_is_refused(server, certificates, tmp_path):
    (tmp_path / "junk").write_bytes(b"junk")
    (tmp_path / "junk.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\njunk\n-----END PRIVATE KEY-----\n")
    for junk in (tmp_path / "junk", tmp_path / "junk.pem"):
        with pytest.raises(TLSConfigurationError, match="cannot be read as a certificate"):
            server((junk, certificates.server.key))
        with pytest.raises(TLSConfigurationError, match="cannot be read as a private key"):
            server((certificates.server.certificate, junk))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda pem: b"\n", "it is empty"),
        (lambda pem: b"certificate", "it is neither PEM nor DER"),
        (lambda pem: pem[:200], "it is damaged, or of a kind that is not known"),
        (lambda pem: pem[:200] + b"\n-----END CERTIFICATE-----", "it is damaged"),
        (lambda pem: b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----", "it is damaged"),
        (lambda pem: ssl.PEM_cert_to_DER_cert(pem.decode())[:100], "it is damaged"),
        (lambda pem: pem.replace(b"CERTIFICATE", b"CERTIFICATE REQUEST"), "it holds a CERTIFICATE REQUEST"),
        (lambda pem: bytes.fromhex("308209c6020103308209"), "openssl pkcs12"),
    ],
)
def test_why_a_file_cannot_be_read_is_said_in_words(server, certificates, tmp_path, make, words):
    file = tmp_path / "file"
    file.write_bytes(make(certificates.server.certificate.read_bytes()))
    for use in (
        lambda: server((file, certificates.server.key)),
        lambda: server((certificates.server.certificate, file)),
        lambda: server(trusted=file),
        lambda: server(crls=file),
    ):
        with pytest.raises(TLSConfigurationError, match=rf"^{re.escape(str(file))} [^/]*it ") as caught:
            use()
        assert words in str(caught.value) or "it holds a CERTIFICATE" in str(caught.value)


def test_a_key_that_is_not_in_the_certificate_s_file_is_missed(server, certificates):
    with pytest.raises(TLSConfigurationError, match="it holds a CERTIFICATE; name the file that has the key"):
        server((certificates.server.certificate, None))


def test_a_revocation_list_that_is_missing_is_named_once(client, tmp_path):
    with pytest.raises(TLSConfigurationError, match=r"^\S+/absent cannot be read: No such file or directory$"):
        client(crls=tmp_path / "absent")


# Weak certificates


@pytest.mark.parametrize(
    ("kind", "section", "words"),
    [
        ("rsa1024", "B.12", "an RSA key of 1024 bits; .* has 2048 or more"),
        ("p192", "B.12", "a key on a curve of 192 bits; .* has 224 or more"),
        ("p224", "B.13", "a key on a curve of 224 bits; .* has 256 or more"),
        ("p224", "B.11", "a key on a curve of 224 bits; .* has 256 or more"),
        ("ec", "B.3", "no key that .* can use; it takes RSA"),
    ],
)
def test_a_weak_key_of_its_own_is_refused(client, certificates, kind, section, words):
    pair = certificates.ca.issue(f"weak-{kind}", kind=kind)
    with pytest.raises(TLSConfigurationError, match=words):
        client(pair, profile=section)


@pytest.mark.parametrize(
    ("kind", "section"), [("rsa1024", "B.3"), ("p224", "B.12"), ("ed25519", "B.12"), ("ed25519", "B.13")]
)
def test_a_key_that_is_just_long_enough_is_taken(client, certificates, kind, section):
    assert client(certificates.ca.issue(f"weak-{kind}", kind=kind), profile=section).not_after


@pytest.mark.parametrize(("digest", "taken"), [(hashes.SHA224(), False), (hashes.SHA384(), True)], ids=["224", "384"])
def test_a_certificate_of_its_own_has_a_hash_of_256_bits(client, certificates, digest, taken):
    pair = certificates.ca.issue("other-hash", digest=digest)
    if taken:
        assert client(pair).not_after
        return
    with pytest.raises(TLSConfigurationError, match=r"signed with SHA224; .* has hashes of 256 bits or more"):
        client(pair)


@pytest.fixture(scope="session")
def with_sha1(tmp_path_factory):
    """A CA that signs with SHA-1, and a server's certificate."""
    authority = Authority(tmp_path_factory.mktemp("sha1"), "Old CA", kind="rsa")
    return authority, authority.issue_with_sha1("old")


def test_a_certificate_of_its_own_is_not_signed_with_sha1(client, with_sha1):
    with pytest.raises(TLSConfigurationError, match="signed with SHA1"):
        client(with_sha1[1])


def test_a_peers_certificate_is_not_signed_with_sha1(client, anything, with_sha1):
    ours, theirs = said(handshake(client(trusted=with_sha1[0].file), anything(server=with_sha1[1])))
    assert "a hash that is too weak for the TLS profile" in ours
    assert theirs.startswith("the peer refused")


def test_a_short_key_of_the_peer_is_refused(client, anything, certificates):
    pair = certificates.ca.issue("weak-peer", kind="rsa1024")
    ours, _ = said(handshake(client(), anything(server=pair)))
    assert ours.endswith(": its key is too short for the TLS profile")


@pytest.mark.parametrize(("section", "kind"), [("B.12", "p192"), ("B.13", "p224"), ("B.11", "p224")])
def test_a_small_curve_of_the_peer_is_refused(client, anything, certificates, section, kind):
    pair = certificates.ca.issue("small-peer", kind=kind)
    assert said(handshake(client(profile=section), anything(server=pair)))[0]


def test_a_peer_can_be_held_to_all_that_a_profile_has(certificates):
    def words(section, **options):
        pair = certificates.ca.issue("checked", **options)
        return check_peer(x509.load_pem_x509_certificate(pair.certificate.read_bytes()).public_bytes(DER), section)

    assert "signed with SHA224; TLS profile 8996-mod (B.13) has" in words("B.13", digest=hashes.SHA224())
    assert "RSA key of 1024 bits" in words("B.12", kind="rsa1024")
    assert words("B.13") == ""


@pytest.mark.parametrize(("section", "is_taken"), [("B.12", True), ("B.13", False), ("B.11", False)])
def test_a_handshake_fails_where_a_profile_asks_for_more_than_openssl(
    client, anything, certificates, section, is_taken
):
    pair = certificates.ca.issue("sha224", digest=hashes.SHA224(), kind="rsa")
    ours, _ = said(handshake(client(profile=section), anything(server=pair)))
    assert ours is None if is_taken else "signed with SHA224" in ours


def test_a_short_key_of_a_ca_is_refused(client, anything, certificates, tmp_path):
    weak = Authority(tmp_path, "Weak CA", kind="rsa1024")
    ours, _ = said(handshake(client(trusted=weak.file), anything(server=weak.issue("from-weak"))))
    assert ours.endswith("the key of a CA above it is too short for the TLS profile")


# Made again


def test_a_context_remembers_what_it_was_made_of(server, certificates):
    context = server(trusted=[certificates.ca.file], client_certificate="optional", profile="B.10")
    assert isinstance(context, Context)
    assert context.profile is PROFILES["bcp195-nd"]
    assert context.files == (*certificates.server, certificates.ca.file)
    assert context.not_after == NOW + DAY


def test_the_first_certificate_to_expire_counts(server, certificates):
    expired = {"a": certificates.expired}
    context = server(server_names=expired)
    assert context.not_after == NOW - DAY
    assert set(certificates.expired) < set(context.files)


def test_a_client_without_a_certificate_has_none_that_expires(client, certificates):
    assert client().not_after is None
    assert client(certificates.client).not_after == NOW + DAY


def test_a_context_is_made_again_from_the_same_files(server, client, certificates, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source, name in zip(certificates.server, ("c.pem", "k.pem"), strict=True):
        shutil.copy(source, name)
    context = server(("c.pem", "k.pem"))
    monkeypatch.chdir("/")
    for source, name in zip(certificates.chained, ("c.pem", "k.pem"), strict=True):
        shutil.copy(source, tmp_path / name)
    again = context.remade().remade()
    names = [handshake(client(), each).client.getpeercert(binary_form=True) for each in (context, again)]
    assert [certificate_of(each).common_name for each in names] == ["server", "chained"]


def test_a_context_that_cannot_be_made_again_stays_as_it_is(server, client, certificates, tmp_path):
    pair = [shutil.copy(file, tmp_path / file.name) for file in certificates.server]
    context = server(pair)
    pair[1].write_bytes(certificates.client.key.read_bytes())
    with pytest.raises(TLSConfigurationError, match="is not the one of the certificate"):
        context.remade()
    assert succeeds(handshake(client(), context))


def test_contexts_go_to_other_processes(server, client, certificates, named):
    theirs = server(client_certificate="required", trusted=certificates.ca.file, server_names=named, profile="B.10")
    theirs, ours = pickle.loads(pickle.dumps((theirs, client(certificates.client))))
    assert theirs.profile == PROFILES["bcp195-nd"]
    assert succeeds(handshake(ours, theirs, "pacs.example"))


def test_a_password_that_cannot_be_pickled_stays_here(client, certificates):
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(client(certificates.client, password=lambda: "x"))


# Who the peer is


def test_a_certificate_says_who_the_peer_is(certificates):
    extra = [x509.UniformResourceIdentifier("urn:oid:1.2.3"), x509.RFC822Name("it@example.org")]
    pair = certificates.ca.issue("full", dns=("a.example", "b.example"), ip=("192.0.2.1", "2001:db8::1"), extra=extra)
    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    der = certificate.public_bytes(DER)
    assert certificate_of(der) == PeerCertificate(
        subject="CN=full",
        issuer="CN=Test CA",
        common_name="full",
        common_names=("full",),
        serial_number=certificate.serial_number,
        dns_names=("a.example", "b.example"),
        ip_addresses=("192.0.2.1", "2001:db8::1"),
        uris=("urn:oid:1.2.3",),
        emails=("it@example.org",),
        not_before=NOW - DAY,
        not_after=NOW + DAY,
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        der=der,
    )


@pytest.mark.parametrize("count", [0, 2])
def test_a_common_name_is_the_only_one(certificates, count):
    key = KEYS["ec"]()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, str(each)) for each in range(count)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).serial_number(1)
    builder = builder.public_key(key.public_key()).not_valid_before(NOW).not_valid_after(NOW + DAY)
    found = certificate_of(builder.sign(key, hashes.SHA256()).public_bytes(DER))
    assert (found.common_name, found.dns_names) == ("", ())
    assert found.common_names == tuple(map(str, range(count)))


@pytest.mark.parametrize("data", [b"", b"0", b"\x30\x03\x02\x01\x00"])
def test_what_is_no_certificate_is_a_value_error(data):
    with pytest.raises(ValueError, match=r".+"):
        certificate_of(data)


def test_what_cryptography_warns_of_is_a_value_error_where_warnings_are_errors(certificates):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "odd")])
    key = load_key(certificates.client)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(0x55)
    builder = builder.public_key(key.public_key()).not_valid_before(NOW).not_valid_after(NOW + DAY)
    der = builder.sign(key, hashes.SHA256()).public_bytes(DER)
    with pytest.raises(ValueError, match=r".+"):
        certificate_of(der.replace(b"\x02\x01\x55", b"\x02\x01\xff", 1))  # a serial number of -1


@pytest.mark.parametrize("read", [certificate_of, lambda der: check_peer(der, "B.13")])
def test_whatever_is_wrong_with_a_certificate_is_a_value_error(read, certificates):
    der = x509.load_pem_x509_certificate(certificates.client.certificate.read_bytes()).public_bytes(DER)
    for at in range(len(der)):
        for value in (0, der[at] ^ 3, 0xFF):
            with contextlib.suppress(ValueError):
                read(der[:at] + bytes((value,)) + der[at + 1 :])


# What went wrong


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("expired", "it has expired"),
        ("not_yet", "it is not yet valid; compare the clocks"),
        ("stranger", "its CA is not among the trusted certificates"),
        ("elsewhere", "Hostname mismatch, certificate is not valid for 'localhost'; it is for pacs.example, 192.0.2.1"),
        ("client", "certificate is not valid for 'localhost'; it is for client"),
        ("client_only", "it is not meant for this purpose"),
    ],
)
def test_a_client_says_what_is_wrong_with_the_server(server, client, certificates, shown, words):
    ours, theirs = said(handshake(client(), server(getattr(certificates, shown))))
    assert ours.startswith("the peer's certificate was not accepted: ")
    assert words in ours
    assert theirs.startswith(("the peer refused: it ", "the peer refused: this side's"))


def test_of_many_and_long_names_of_a_certificate_some_are_shown(server, client, certificates):
    names = ["a" * 63 + "." + "b" * 63, *(f"pacs{number}.example" for number in range(50))]
    ours, _ = said(handshake(client(), server(certificates.ca.issue("many", dns=names, ip=()))))
    assert ours.endswith(f"it is for {names[0][:80]}, {', '.join(names[1:5])} and 46 more")


@pytest.mark.parametrize(
    ("shown", "words", "to_the_client"),
    [
        ("expired", "it has expired", "this side's certificate has expired"),
        ("not_yet", "it is not yet valid", "it takes this side's certificate for bad"),
        ("stranger", "its CA is not among the trusted", "it does not trust the CA of this side's certificate"),
    ],
)
def test_a_server_says_what_is_wrong_with_the_client(  # noqa: PLR0917 - fixtures
    server, client, certificates, shown, words, to_the_client
):
    context = server(client_certificate="required", trusted=certificates.ca.file)
    ours, theirs = said(handshake(client(getattr(certificates, shown)), context))
    assert words in theirs
    assert to_the_client in ours


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_say_that_the_client_sent_no_certificate(server, anything, certificates, version):
    context = server(client_certificate="required", trusted=certificates.ca.file)
    ours, theirs = said(handshake(anything(version=version), context))
    assert theirs == "the client sent no certificate, and one is required"
    assert "misses a certificate" in ours or "requires a certificate" in ours


def test_a_self_signed_server_is_named(certificates, client, anything, tmp_path):
    key = KEYS["ec"]()
    builder = x509.CertificateBuilder().subject_name(certificates.ca.name).issuer_name(certificates.ca.name)
    builder = (
        builder.serial_number(1).public_key(key.public_key()).not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
    )
    (tmp_path / "c.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(PEM))
    pair = tmp_path / "c.pem", write_key(tmp_path / "k.pem", key)
    ours, _ = said(handshake(client(trusted=certificates.other_ca.file), anything(server=pair)))
    assert ours.endswith("it is self-signed, and not among the trusted certificates")


def test_both_say_that_there_is_no_suite_for_both(server, client, certificates, anything):
    old = anything(suites="AES128-SHA:@SECLEVEL=0", version=ssl.TLSVersion.TLSv1_2)
    ours, theirs = said(handshake(old, server()))
    assert theirs.startswith("no cipher suite that both sides permit")
    assert ours.startswith("the peer refused: it found no TLS version or cipher suite")
    ours, _ = said(
        handshake(client(), anything(server=certificates.rsa, suites="AES128-SHA", version=ssl.TLSVersion.TLSv1_2))
    )
    assert ours.startswith("the peer refused: it found no TLS version or cipher suite")


def test_both_say_that_there_is_no_version_for_both(server, client, certificates):
    new, old = client(), server(certificates.rsa, profile="B.11")
    new.minimum_version = ssl.TLSVersion.TLSv1_3
    ours, theirs = said(handshake(new, old))
    assert theirs == "the peer has no TLS version that is permitted here; compare the TLS profiles"
    assert ours == "the peer refused: it permits no TLS version that is permitted here; compare the TLS profiles"


def fed(context, data, *, server_side):
    incoming = ssl.MemoryBIO()
    name = None if server_side else "localhost"
    connection = context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=server_side, server_hostname=name)
    incoming.write(data)
    incoming.write_eof()
    with pytest.raises(ssl.SSLError) as caught:
        connection.do_handshake()
    return describe(caught.value)


A_ASSOCIATE_RQ = bytes.fromhex("010000000105 0001 0000") + b"ANY-SCP         " + bytes(300)
A_ABORT = bytes.fromhex("07000000000400000200")
HTTP = "the peer speaks HTTP, not TLS; check the port"
PLAIN = "the peer does not speak TLS (plain DICOM?); check the port"
GONE = (
    "the peer closed the connection during the TLS handshake: it does not speak TLS, or it refused; its log may say why"
)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (A_ASSOCIATE_RQ, PLAIN),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", HTTP),
        (b"POST / HTTP/1.1\r\n\r\n", HTTP),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", HTTP),
        (b"", GONE),
        (b"\x16\x03\x01", GONE),
        (bytes(64), PLAIN),
    ],
)
def test_a_server_says_what_came_instead_of_tls(server, data, words):
    assert fed(server(), data, server_side=True) == words


@pytest.mark.parametrize(
    ("data", "words"), [(A_ABORT, PLAIN), (b"HTTP/1.1 400 Bad Request\r\n\r\n", PLAIN), (b"", GONE), (bytes(64), PLAIN)]
)
def test_a_client_says_what_came_instead_of_tls(client, data, words):
    assert fed(client(), data, server_side=False) == words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), GONE),
        (BrokenPipeError(), GONE),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (ConnectionAbortedError("SSL handshake is taking longer than 1 s"), "SSL handshake is taking longer than 1 s"),
        (TimeoutError(), "TimeoutError"),
        (ssl.SSLError(1, "something odd"), "TLS failed: "),
    ],
)
def test_every_error_has_words(error, words):
    assert describe(error).startswith(words)


ALERTS = {10, 20, 40, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 70, 71, 80, 86, 112, 116, 120}
"""Those that end a handshake (RFC 8446 6.2)."""


@pytest.mark.parametrize("number", sorted(ALERTS))
def test_every_alert_of_the_peer_has_words(client, number):
    words = fed(client(), bytes((21, 3, 3, 0, 2, 2, number)), server_side=False)
    assert words.startswith("the peer refused: "), words


def test_the_first_bytes_of_a_client_are_a_client_hello(client):
    assert client_hello_bytes(client())[0] == 22
    assert [kind for kind, _ in messages(client_hello_bytes(client()))[0]] == [CLIENT_HELLO]
