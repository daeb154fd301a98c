"""Job lines: any bytes are a command, nothing, or an invalid line."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memcache_shm.ops.job_lines import HELP, Backup, Command, Delete, Help, InvalidLineError, Read, Show, Wait, Write, parse

COMMANDS: dict[bytes, Command | None] = {
    b"WRITE [(key1,value1)(key2,value2)]\n": Write([(b"key1", b"value1"), (b"key2", b"value2")]),
    b"READ [key1,missing]\n": Read([b"key1", b"missing"]),
    b"DELETE [key1,missing]\n": Delete([b"key1", b"missing"]),
    b"SHOW\n": Show(),
    b"WAIT 1000\n": Wait(1000),
    b"BACKUP\n": Backup(),
    b"HELP\n": Help(),
    b"# comment [\n": None,
    b"#": None,
    b"\n": None,
    b"": None,
    b"  \t \r\n": None,
    # blanks around, CRLF, no line feed at the end
    b"  SHOW \t\r\n": Show(),
    b"SHOW": Show(),
    b"\tWAIT   7  ": Wait(7),
    b"WAIT 0": Wait(0),
    b"WAIT 999999999999": Wait(999_999_999_999),
    b"WRITE[(a,b)]": Write([(b"a", b"b")]),
    b"WRITE  [ (a,b)\t(c,d) ] \r\n": Write([(b"a", b"b"), (b"c", b"d")]),
    b"READ\t[a]": Read([b"a"]),
    b"  # comment": None,
    # blanks inside belong to the keys and values; so does every byte but seven
    b"READ [ a ,b c]": Read([b" a ", b"b c"]),
    b"READ [a, b,\t c ,d]": Read([b"a", b"b", b"c ", b"d"]),  # but for those behind a comma between keys
    b"DELETE [ a, a]": Delete([b" a", b"a"]),
    b"WRITE [( a, b )]": Write([(b" a", b" b ")]),
    b"WRITE [(\xff\x00#,\r\t=)]\n": Write([(b"\xff\x00#", b"\r\t=")]),
    b"WRITE [(empty,)]": Write([(b"empty", b"")]),
    # alphabetical order; of two values of a key the last one stays last
    b"WRITE [(b,1)(a,2)(b,0)]": Write([(b"a", b"2"), (b"b", b"1"), (b"b", b"0")]),
    b"READ [b,\xff,a,b,B]": Read([b"B", b"a", b"b", b"b", b"\xff"]),
    b"DELETE [b,a]": Delete([b"a", b"b"]),
}
INVALID = [
    *(b"show", b"Show", b"SHOWS", b"SHOW 1", b"SHOW []", b"BACKUP x", b"HELP SHOW", b"HELP # comment", b"FOO", b"[", b"(a,b)", b"\xff\xfe"),
    *(b"WAIT", b"WAIT ", b"WAIT x", b"WAIT -1", b"WAIT +1", b"WAIT 1.5", b"WAIT 1 2", b"WAIT 9999999999999", b"WAIT \xd9\xa1", b"WAIT 1_0"),
    *(
        b"WRITE",
        b"WRITE []",
        b"WRITE [ ]",
        b"WRITE (a,b)",
        b"WRITE [(a,b)",
        b"WRITE (a,b)]",
        b"WRITE [(a)]",
        b"WRITE [(,b)]",
        b"WRITE [a,b]",
    ),
    *(
        b"WRITE [(a,b),(c,d)]",
        b"WRITE [(a,b)x]",
        b"WRITE [(a,b,c)]",
        b"WRITE [(a,b)] x",
        b"WRITE [((a,b)]",
        b"WRITE [[(a,b)]]",
        b"WRITE [(a,(b)]",
    ),
    *(
        b"READ",
        b"READ []",
        b"READ [a,]",
        b"READ [,a]",
        b"READ [a,,b]",
        b"READ [a, ]",
        b"READ [a, ,b]",
        b"READ a",
        b"READ [a",
        b"READ a]",
        b"READ [a]b]",
        b"READ [(a)]",
        b"READ [",
    ),
    *(b"DELETE", b"DELETE []", b"DELETE [a,b", b"DELETE [a][b]"),
]


@pytest.mark.parametrize("line", COMMANDS)
def test_command(line: bytes) -> None:
    assert parse(line) == COMMANDS[line]
    assert type(parse(line)) is type(COMMANDS[line])


@pytest.mark.parametrize("line", INVALID)
def test_invalid_line(line: bytes) -> None:
    with pytest.raises(InvalidLineError):
        parse(line)
    with pytest.raises(InvalidLineError):
        parse(line + b"\r\n")


def test_help_names_every_command() -> None:
    named = {line.split()[0] for line in HELP.splitlines()}
    assert named == {"WRITE", "READ", "DELETE", "SHOW", "WAIT", "BACKUP", "HELP", "#"}


text = st.binary(min_size=1, max_size=20).map(lambda data: data.translate(None, b"()[],\n")).filter(bool)


@settings(deadline=None)
@given(st.lists(st.tuples(text, st.just(b"") | text), min_size=1, max_size=9))
def test_what_is_written_as_a_command_is_read_as_it_was(pairs: list[tuple[bytes, bytes]]) -> None:
    first, *others = [key for key, _ in pairs]
    keys = [first, *(key for key in others if not key.startswith((b" ", b"\t")))]  # blanks behind a comma do not count
    assert parse(b"WRITE [%b]\n" % b"".join(b"(%b,%b)" % pair for pair in pairs)) == Write(sorted(pairs, key=lambda pair: pair[0]))
    assert parse(b"READ [%b]\n" % b",".join(keys)) == Read(sorted(keys))
    assert parse(b"DELETE [%b]\r\n" % b",".join(keys)) == Delete(sorted(keys))


pieces = st.sampled_from(
    [b"WRITE", b"READ", b"DELETE", b"WAIT", b"SHOW", b" ", b"[", b"]", b"(", b")", b",", b"a", b"7", b"\r", b"#", b"\0"]
)


@settings(deadline=None)
@given(st.binary() | st.lists(pieces).map(b"".join))
@example(b"WRITE [" + b"(a,b)" * 100_000 + b"]")
@example(b"WRITE [" + b"(" * 100_000)
@example(b"READ [" + b"a," * 100_000)
@example(b"WAIT " + b"1" * 100_000)
def test_any_line_is_a_command_or_invalid(line: bytes) -> None:
    try:
        command = parse(line)
    except InvalidLineError:
        return
    if isinstance(command, Write):
        assert command.pairs == sorted(command.pairs, key=lambda pair: pair[0])
        assert all(key and not set(key + value) & set(b"()[],\n") for key, value in command.pairs)
    elif isinstance(command, Read | Delete):
        assert command.keys == sorted(command.keys)
        assert all(key and not set(key) & set(b"()[],\n") for key in command.keys)
    elif isinstance(command, Wait):
        assert 0 <= command.ms < 10**12
    elif command is None:
        assert not line.strip() or line.strip().startswith(b"#")
    else:
        assert line.strip() in (b"SHOW", b"BACKUP", b"HELP")
