"""Every option that Debian's memcached lists in its help is meant, accepted without effect, or refused with its reason; none is unknown."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess

import pytest

from memcache_shm.cli.extended import WITHOUT_EFFECT
from memcache_shm.cli.main import main
from memcache_shm.cli.messages import UsageError
from memcache_shm.cli.options import Options, parse

# By letter, the word that follows; the others take none.
VALUES = {
    "p": "0", "U": "0", "s": "/run/x", "a": "770", "l": "127.0.0.1", "u": "root", "m": "64", "c": "1024", "P": "/run/pid", "f": "1.25",
    "n": "48", "D": ":", "t": "4", "R": "20", "b": "1024", "B": "auto", "I": "1m", "Y": "/etc/users", "e": "/mnt/items",
    "o": "modern", "N": "8",
}  # fmt: skip
# By name, of -o; "1" for those that have a number in their description and are not here, none for the others.
SUB_VALUES = {
    "hashpower": "16", "hash_algorithm": "murmur3", "ssl_chain_cert": "/c.pem", "ssl_key": "/k.pem", "ssl_ciphers": "HIGH",
    "ssl_ca_cert": "/ca.pem", "ext_path": "/mnt/x:1G",
}  # fmt: skip
FLAGS = {
    "maxconns_fast", "no_lru_crawler", "no_lru_maintainer", "track_sizes", "no_hashexpand", "modern", "no_modern", "ssl_session_cache",
    "ssl_kernel_tls", "ext_drop_unread",
}  # fmt: skip
REFUSED = {"-S", "--enable-sasl", "-e", "--memory-file"}
ENDING = {"-h", "--help", "-i", "--license", "-V", "--version"}


@functools.cache
def memcached_help() -> str:
    return subprocess.run(["memcached", "-h"], capture_output=True, text=True, check=True, timeout=10).stdout


def listed_options() -> dict[str, str]:
    """Each option as it is written, short or long, with its letter."""
    found = {}
    for letter, long in re.findall(r"^-(\w)\b(?:,?\s+--([\w-]+))?", memcached_help(), re.M):
        found[f"-{letter}"] = letter
        if long:
            found[f"--{long}"] = letter
    return found


def listed_names() -> list[str]:
    return re.findall(r"^   - (\w+):", memcached_help(), re.M)


def options(line: str) -> Options:
    return parse(shlex.split(line), "")


def test_the_help_was_understood() -> None:
    assert len(listed_options()) > 60
    assert len(listed_names()) > 40
    assert {"-p", "--port", "-W", "--disable-watch", "-D", "-N", "--napi_ids"} <= listed_options().keys()


@pytest.mark.parametrize("written", listed_options())
def test_option(written: str) -> None:
    letter = listed_options()[written]
    words = [written, *([VALUES[letter]] if letter in VALUES else []), *(["-o", "ssl_chain_cert=/c"] if letter == "Z" else [])]
    if written in REFUSED:
        with pytest.raises(UsageError) as refusal:
            parse(words, "")
        assert re.search(r"there is no|already", str(refusal.value))
        assert "\n" not in str(refusal.value)
    elif written in ENDING:
        with pytest.raises(SystemExit) as end:
            parse(words, "")
        assert end.value.code == 0
    else:
        parse(words, "")
        if letter in VALUES and len(written) == 2:  # as getopt: in the same word, with or without a space between
            assert parse([written + VALUES[letter]], "") == parse([f"{written} {VALUES[letter]}"], "") == parse(words, "")


@pytest.mark.parametrize("name", listed_names())
def test_extended_option(name: str) -> None:
    word = name if name in FLAGS else f"{name}={SUB_VALUES.get(name, '1')}"
    if name.startswith("ext_"):
        with pytest.raises(UsageError, match=f"^-o {name}: there is no external storage.*$"):
            options(f"-o {word}")
    else:
        options(f"-o {word}")


def test_what_has_no_effect_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    without = re.split(r"^accepted without effect", said, flags=re.M)[1].split("\n\n")[0]
    for name in (*WITHOUT_EFFECT, "-f", "-n", "-L", "-N", "-U 0", "-B ascii"):
        assert re.search(rf"(?<![\w-]){name}\b", without)
    plain = options("")
    for line in ("-f 1.1", "-n 100", "-L", "-N 4", "-U 0", "-B ascii", "-B auto", "-o modern,no_lru_crawler,hashpower=20"):
        assert options(line) == plain


@pytest.mark.parametrize(
    "line",
    [
        "'-m 64' '-p 11211' '-u memcache' '-l 127.0.0.1' '-P /var/run/memcached/memcached.pid'",  # Debian, before systemd
        "-p 11211 -u memcached -m 64 -c 1024 -l 127.0.0.1,::1",  # Fedora: PORT USER CACHESIZE MAXCONN OPTIONS
        "-m 64 -o modern",  # the container image's documentation
        "-d -p 11211 -u nobody -m 512 -c 8192 -P /run/memcached.pid -U 0 -t 8 -R 40 -v",
        "-u memcached -o relaxed_privileges -o modern,drop_privileges",
        "--memory-limit=64 --max-item-size=2m --conn-limit=1024 --threads=4 --port=11211 --user=memcache",
        "-A -a 0766 -s /run/memcached/memcached.sock -m 128",
        "-I 4m -m 1024 -f 1.05 -n 32 -o slab_reassign,slab_automove=1,lru_crawler,lru_maintainer,hash_algorithm=murmur3",
        "-o slab_automove",
    ],
)
def test_packaged_command_line(line: str) -> None:
    options(line)
