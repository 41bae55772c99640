import math
import socket

import pytest

from asyncdicom import Timeouts
from asyncdicom.cli import (
    TOOLS,
    certs,
    demo,
    echoscu,
    findscu,
    getscu,
    main,
    movescu,
    mppsscu,
    stgcmtscu,
    storescp,
    storescu,
    wlmscu,
)
from asyncdicom.cli.options import Effect, Group, Tool, UsageError, flag, help_text, parse, refused, value
from asyncdicom.cli.shared import CommonOptions, NetworkOptions, delay, number, seconds

MODULES = (echoscu, storescu, storescp, findscu, getscu, movescu, demo, wlmscu, mppsscu, stgcmtscu, certs)
ALL = tuple(module.TOOL for module in MODULES)
ROWS = [(tool, name, option) for tool in ALL for name, option in tool.table().items()]
VALUES = {
    "SECONDS": "7",
    "NUMBER": "5",
    "BYTES": "16384",
    "TITLE": "SOMEBODY",
    "LEVEL": "error",
    "TITLE@HOST:PORT": "PACS@host:11112",
    "FILE": __file__,
    "NAME": "asyncio",
    "SOP-CLASS": "CTImageStorage",
    "PORT": "11112",
    "HOST": "pacs.example",
    "KIND": "ec",
    "STATUS": "COMPLETED",
    "CODE^SCHEME^MEANING": "110501^DCM^Equipment failure",
    "QUIRK": "never-cancel",
    "TAG": "0008,0060",
    "CLASS,UID": "CTImageStorage,1.2.3",
    "NETWORK": "10.0.0.0/8",
    "TRANSPORT:HOST:PORT": "udp:localhost:514",
}
"""A good word for each name that a value has in the help; others are any text."""


def rows(*effects):
    chosen = [row for row in ROWS if row[2].effect in effects]
    return pytest.mark.parametrize(
        ("tool", "name", "option"), chosen, ids=[f"{tool.name} {name}" for tool, name, _ in chosen]
    )


def words(name, option):
    return [name, *(VALUES.get(each, "text") for each in option.values)]


@rows(Effect.SET, Effect.APPEND)
def test_an_option_sets_its_field(tool, name, option):
    parsed = parse(tool, words(name, option))
    assert list(parsed.fields) == [option.field]
    tool.options_type(**parsed.fields)


@rows(Effect.SET, Effect.APPEND, Effect.NOTHING)
def test_an_option_may_stand_anywhere(tool, name, option):
    given = words(name, option)
    expected = parse(tool, given).fields
    for line in ([*given, "host", "104"], ["host", *given, "104"], ["host", "104", *given]):
        assert parse(tool, line)[:2] == (expected, ["host", "104"])


@rows(Effect.NOTHING)
def test_an_option_without_effect_takes_its_values_and_says_so_in_the_help(tool, name, option):
    assert parse(tool, [*words(name, option), "host"])[:2] == ({}, ["host"])
    assert name in help_text(tool)


@rows(Effect.REFUSED)
def test_an_option_that_cannot_be_honoured_ends_the_tool(tool, name, option):
    with pytest.raises(UsageError, match="cannot be honoured"):
        parse(tool, ["host", "104", *words(name, option)])


@rows(Effect.STOP)
def test_help_and_version_are_answered_whatever_stands_beside_them(tool, name, option):
    assert parse(tool, ["host", name, "--no-such-option"]).stop == option.field


@pytest.mark.parametrize(
    ("tool", "name", "option"), [row for row in ROWS if row[1].startswith("--") and len(row[2].values) == 1]
)
def test_a_long_name_takes_its_value_after_an_equals_sign(tool, name, option):
    if option.effect is not Effect.REFUSED:
        joined = "=".join(words(name, option))
        assert parse(tool, [joined]) == parse(tool, words(name, option))


@pytest.mark.parametrize(("tool", "name", "option"), [row for row in ROWS if row[2].values])
def test_a_value_that_is_missing_is_named(tool, name, option):
    if option.effect is not Effect.REFUSED:
        with pytest.raises(UsageError, match="needs a value"):
            parse(tool, [name])
        with pytest.raises(UsageError, match="is an option"):
            parse(tool, [name, "-v"])


SCRIPTED = {
    "echoscu": "-aet -aec -to -ta -td -ts -pdu -v -d -q -ll -i4 -i6 -i0 --repeat --abort -pts -ppc "
    "--aetitle --call --calling-aet --called-aet --timeout --acse-timeout --dimse-timeout --network-timeout --max-pdu",
    "storescu": "-aet -aec -to -ta -td -ts -pdu -v -d -q -ll +v +sd +r +sp -r -nh -R +C -up -usr -pwd -epw -rsp "
    "-x= -xe -xb -xi -xs -xy -xx -xv -xw -xt -xu -xm -xh -xn -xl -x2 -x3 -xo -x4 -x5 -xr -xd --max-send-pdu --repeat "
    "--abort -i4 -i6 -i0 --scan-directories --recurse --no-halt --required-contexts --calling-aet --called-aet -c",
    "storescp": "-aet -ta -td -ts -pdu -v -d -q -ll +v -od -fe +B -B -pm -up -dhl --ignore --refuse --fork "
    "--single-process --max-associations -i4 -i6 -i0 +x= +xe +xb +xi +xs +xy +xx +xv +xw +xt +xu +xm +xh +xn +xl +x2 "
    "+x3 +xo +x4 +x5 +xr +xd +xa --output-directory --ae-title --bind-address -su +t=",
}


@pytest.mark.parametrize(
    ("tool", "name"), [(tool, name) for tool in ALL for name in SCRIPTED.get(tool.name, "").split()]
)
def test_what_scripts_give_to_dcmtk_and_pynetdicom_is_taken(tool, name):
    assert tool.table()[name].effect is not Effect.REFUSED


@pytest.mark.parametrize("tool", ALL, ids=lambda tool: tool.name)
def test_the_help_shows_every_option_of_the_table(tool):
    text = help_text(tool).replace("\n", " ")
    assert all(f" {name}" in text for name in tool.table())


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("--aetitel X", "did you mean --aetitle"),
        ("-AEC X", "did you mean -aec"),
        ("--max-pdus=5", "did you mean --max-pdu"),
        ("-verbose", "did you mean --verbose"),
        ("--zzzzzzzz", "goes after '--'"),
    ],
)
def test_an_unknown_option_is_refused_with_a_suggestion(line, hint):
    with pytest.raises(UsageError, match=hint):
        parse(storescu.TOOL, ["host", "104", *line.split()])


def test_the_last_of_several_counts():
    assert parse(echoscu.TOOL, ["-v", "-d", "-aec", "A", "--call", "B"]).fields == {"log_level": "debug", "aec": "B"}


def test_after_two_dashes_everything_is_a_word():
    assert parse(storescu.TOOL, ["host", "104", "--", "-v", "--odd-name.dcm"]).words == [
        "host",
        "104",
        "-v",
        "--odd-name.dcm",
    ]


def test_a_single_dash_is_a_word():
    assert parse(storescu.TOOL, ["-", "+"]).words == ["-", "+"]


def test_flags_that_add_are_gathered():
    fields = parse(storescu.TOOL, ["-xs", "-xv"]).fields
    assert fields == {"also": ("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90")}


def test_an_option_of_two_words_cannot_be_written_with_an_equals_sign():
    tool = Tool("x", "", (), CommonOptions, (Group("g", (flag("--one", "loop", ""), value("--two", "loop", "N", ""))),))
    with pytest.raises(UsageError, match="takes no value"):
        parse(tool, ["--one=1"])


def test_a_spelling_stands_for_one_option_only():
    tool = Tool("x", "", (), CommonOptions, (Group("g", (flag("-a", "loop", ""), refused("-a", ""))),))
    with pytest.raises(AssertionError, match="twice"):
        tool.table()


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (seconds, "2.5", 2.5),
        (seconds, "inf", math.inf),
        (delay, "0", 0.0),
        (number(4096, 9999, 0), "0", 0),
        (number(4096, 9999, 0), "4096", 4096),
    ],
)
def test_a_value_is_read(read, text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(
    "line",
    [
        "-ta x",
        "-ta nan",
        "-ta 0",
        "--tls-timeout -1",
        "-pdu 4095",
        "-pdu -5",
        "--repeat 0",
        "-aet ''",
        "-aet 12345678901234567",
        "-ll loud",
        "-c host",
    ],
)
def test_a_bad_value_is_refused_in_words(line):
    with pytest.raises(UsageError, match=line.split()[0]):
        parse(echoscu.TOOL, line.replace("''", " ").split(" ", 1))


@pytest.mark.parametrize("option", ["--reload-interval", "--drain", "--sleep-after"])
@pytest.mark.parametrize("text", ["-1", "inf", "nan", "soon"])
def test_a_time_that_may_be_0_is_refused_below_it(option, text):
    with pytest.raises(UsageError, match=f"{option} {text}: a number of seconds is expected, 0 or more"):
        parse(storescp.TOOL, [option, text])


@pytest.mark.parametrize("tool", ["echoscu", "storescp"])
def test_the_timeout_of_tls_needs_tls(tool, capsys):
    assert main([tool, "127.0.0.1", "11112", "--tls-timeout", "5"]) == 1
    assert "options of TLS need +tls" in capsys.readouterr().err


def test_address_families_are_what_sockets_know():
    assert parse(storescp.TOOL, ["-i6"]).fields == {"family": socket.AF_INET6}


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_prints_its_help(name, capsys):
    assert main([name, "--help"]) == 0
    assert f"usage: asyncdicom {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line", ["", "nosuchtool", "-x", "echoscu", "echoscu host", "echoscu host 0", "echoscu host 1 2"]
)
def test_a_wrong_command_line_ends_with_exit_code_1_and_a_hint(line, capsys):
    assert main(line.split()) == 1
    assert "--help' lists" in capsys.readouterr().err


def test_a_tool_that_does_not_exist_is_guessed(capsys):
    main(["storscu"])
    assert "did you mean 'storescu'" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["--help", "-h", "--version", "echoscu --version"])
def test_what_only_informs_ends_well(line, capsys):
    assert main(line.split()) == 0
    assert "asyncdicom" in capsys.readouterr().out


def test_each_timeout_is_one_of_the_library_s():
    fields = ("connect_timeout", "acse_timeout", "dimse_timeout", "idle_timeout", "tls_timeout")
    assert NetworkOptions(**dict(zip(fields, range(1, 6), strict=True))).timeouts == Timeouts(1, 2, 3, 4, 5)
