"""``asyncdicom passwd``: passwords from a pipe and from a terminal, and what is wrong with either."""

import os
import pty
import subprocess
import types

import pytest
from cli_processes import COMMAND, DEADLINE, ENVIRONMENT, run

from asyncdicom import PasswordFile, UserIdentity


async def knows(path, user, password):
    association = types.SimpleNamespace(peer_address="192.0.2.1")
    return (await PasswordFile(path)(UserIdentity.of_user(user, password), association)).name == user


async def test_a_password_from_standard_input_makes_and_changes_a_user(tmp_path):
    path = tmp_path / "users"
    said = [run("passwd", path, "alice", input=f"{word}\nrest") for word in ("first", "p\u00e4ss w\u00f6rd")]
    said.append(run("passwd", path, "bob", input="third"))
    assert [(each.returncode, each.stdout) for each in said] == [
        (0, "user alice is new\n"),
        (0, "user alice is changed\n"),
        (0, "user bob is new\n"),
    ]
    assert await knows(path, "alice", "p\u00e4ss w\u00f6rd")
    assert await knows(path, "bob", "third")


def at_a_terminal(*words, answers):
    """A run whose standard streams are a terminal, at which each question is answered; gives exit code and output."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=ENVIRONMENT,
        start_new_session=True,  # without a terminal of its own, so that it asks at this one
    )
    os.close(theirs)
    shown = b""
    try:
        for answer in answers:
            while b": " not in shown.rpartition(b"\n")[2]:
                shown += os.read(ours, 1000)
            os.write(ours, answer + b"\n")
            shown += b"\n"
        code = process.wait(DEADLINE)
        while True:
            try:
                shown += os.read(ours, 1000)
            except OSError:
                return code, shown.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


async def test_at_a_terminal_it_asks_twice_and_does_not_show_what_is_typed(tmp_path):
    code, shown = at_a_terminal("passwd", tmp_path / "users", "alice", answers=(b"wonderland", b"wonderland"))
    assert code == 0
    assert "password of alice: " in shown
    assert "user alice is new" in shown
    assert "wonderland" not in shown
    assert await knows(tmp_path / "users", "alice", "wonderland")


def test_two_different_passwords_change_nothing(tmp_path):
    code, shown = at_a_terminal("passwd", tmp_path / "users", "alice", answers=(b"wonderland", b"wonderlamd"))
    assert code == 22
    assert "not the same" in shown
    assert not (tmp_path / "users").exists()


@pytest.mark.parametrize(
    ("user", "password", "code", "words"),
    [
        ("a:b", "x", 22, "a user name is printable"),
        ("alice", "", 22, "the password is empty"),
        ("alice", "\n", 22, "the password is empty"),
    ],
)
def test_what_cannot_be_set_is_refused_in_words(user, password, code, words, tmp_path):
    done = run("passwd", tmp_path / "users", user, input=password)
    assert done.returncode == code
    assert words in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_named(tmp_path):
    done = run("passwd", tmp_path / "none" / "users", "alice", input="x")
    assert (done.returncode, "none/users: No such file" in done.stderr) == (40, True)


@pytest.mark.parametrize("words", [(), ("users",), ("users", "alice", "secret"), ("-x", "users", "alice")])
def test_a_password_on_the_command_line_is_one_word_too_many(words):
    done = run("passwd", *words, input="x")
    assert done.returncode == 1
    assert "'asyncdicom passwd --help'" in done.stderr
