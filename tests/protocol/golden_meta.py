"""Streams of meta commands and what the parser must see in them."""

from __future__ import annotations

from typing import Any

from golden import BAD_LINE, LONG, TOO_LONG, Golden

B64 = b"QUFB" * 62  # 248 of at most 250 bytes
MODES = ("set", "add", "replace", "append", "prepend")  # S E R A P
COMPARING_MODES = ("cas", "add", "cas", "append", "prepend")
NOOP = ("mn", b"", 0, 0, False)


DUPLICATE = ("reply", b"CLIENT_ERROR duplicate flag\r\n", False)


def error(text: str) -> tuple[Any, ...]:
    return ("reply", b"CLIENT_ERROR " + text.encode() + b"\r\n", False)


def get(key: bytes, flags: bytes = b"", **read: int) -> tuple[Any, ...]:
    return ("mg", key, flags, read)


def put(key: bytes, value: bytes, mode: str = "set", flags: bytes = b"", **read: int) -> tuple[Any, ...]:
    return ("ms", key, flags, read, mode, value)


GOLDEN_META = [
    Golden("mg", b"mg a\r\nmg a v\r\nmg  a  v   k \r\n", [get(b"a"), get(b"a", b"v"), get(b"a", b"v   k")]),
    Golden("mg with tokens", b"mg a T30 R-1 N0 Oabc\r\n", [get(b"a", b"T30 R-1 N0 Oabc", T=30, R=-1, N=0)]),
    Golden("mg with 32 bits of a time", b"mg a T4294967297\r\n", [get(b"a", b"T4294967297", T=1)]),
    Golden("mg in base64", b"mg Zm9v b k\r\nmg Z!m9v b\r\n", [get(b"foo", b"b k"), get(b"foo", b"b")]),
    Golden("mg of the longest keys", b"mg " + B64 + b" b\r\nmg " + LONG[:250] + b"\r\n", [get(b"AAA" * 62, b"b"), get(LONG[:250])]),
    Golden("mg of longer keys", b"mg " + B64 + b"QUFB b\r\nmg " + LONG + b" y\r\n", [BAD_LINE, BAD_LINE]),
    Golden("mg of a key that is none", b"mg Zm9 b\r\nmg ==== b\r\n", [error("error decoding key")] * 2),
    Golden("mg without a key", b"mg\r\nmg \r\n", [BAD_LINE, BAD_LINE]),
    Golden("mg with flags that do not exist", b"mg a y\r\nmg a v 5\r\nmg a \xff\r\n", [error("invalid flag")] * 2 + [DUPLICATE]),
    Golden("mg with a flag twice", b"mg a v v\r\nmg a T1 T2\r\n", [DUPLICATE] * 2),
    Golden("mg with wrong numbers", b"mg a T\r\nmg a Nx\r\nmg a C-1\r\n", [error("bad token in command line format")] * 3),
    Golden(
        "a long opaque",
        b"mg a O" + b"o" * 31 + b"\r\nmg a O" + b"o" * 32 + b"\r\n",
        [get(b"a", b"O" + b"o" * 31), error("opaque token too long")],
    ),
    Golden("many flags", b"mg a" + b" v" * 18 + b"\r\nmg a" + b" v" * 19 + b"\r\n", [DUPLICATE, error("options flags are too long")]),
    Golden("endless flags", b"mg a" + b" v" * 5000 + b"\r\nmn\r\n", [TOO_LONG, NOOP]),
    Golden("ms", b"ms a 3\r\nabc\r\nms a 0 q\r\n\r\n", [put(b"a", b"abc"), put(b"a", b"", flags=b"q")]),
    Golden("ms with tokens", b"ms a 1 F7 T-1 E5\r\nx\r\n", [put(b"a", b"x", flags=b"F7 T-1 E5", F=7, T=-1, E=5)]),
    Golden(
        "modes of ms",
        b"".join(b"ms a 1 M%c\r\nx\r\n" % mode for mode in b"SERAP"),
        [put(b"a", b"x", mode, b"M%c" % letter) for mode, letter in zip(MODES, b"SERAP", strict=True)],
    ),
    Golden(
        "modes that compare",
        b"".join(b"ms a 1 M%c C9\r\nx\r\n" % mode for mode in b"SERAP"),
        [put(b"a", b"x", mode, b"M%c C9" % letter, C=9) for mode, letter in zip(COMPARING_MODES, b"SERAP", strict=True)],
    ),
    Golden("N of an append is its expiry", b"ms a 1 MA N30 T5\r\nx\r\n", [put(b"a", b"x", "append", b"MA N30 T5", N=30, T=30)]),
    Golden("a value that looks like commands", b"ms a 8 v\r\nmn\r\nmn\r\n\r\nmn\r\n", [put(b"a", b"mn\r\nmn\r\n", flags=b"v"), NOOP]),
    Golden("wrong flags drop the data", b"ms a 3 y\r\nmn\n\r\nmn\r\n", [error("invalid flag"), NOOP]),
    Golden("a wrong mode drops the data", b"ms a 3 Mx q\r\nmn\n\r\nmn\r\n", [error("invalid mode for ms M token"), NOOP]),
    Golden("a long key drops the data", b"ms " + LONG + b" 3\r\nmn\n\r\nmn\r\n", [BAD_LINE, NOOP]),
    Golden("a wrong size does not", b"ms a x\r\nms a\r\nms a -1\r\nms a 2147483646\r\nmn\r\n", [BAD_LINE] * 4 + [NOOP]),
    Golden("bad data of ms", b"ms a 1 q\r\nxyzmn\r\n", [error("bad data chunk"), NOOP]),
    Golden(
        "ms above the limit",
        b"ms a 1001 ME q\r\n" + b"x" * 1001 + b"\r\nmn\r\n",
        [("too_large", "set", b"a", 1001, False), NOOP],
    ),
    Golden("md", b"md a\r\nmd a I T5 C0 q\r\n", [("md", b"a", b"", {}), ("md", b"a", b"I T5 C0 q", {"T": 5, "C": 0})]),
    Golden("md with wrong flags", b"md a y\r\nmd a q q\r\n", [error("invalid flag"), DUPLICATE]),
    Golden(
        "ma",
        b"ma a\r\nma a MD D5\r\nma a M+ J9 N1\r\nma a M-\r\n",
        [
            ("ma", b"a", b"", {}, "incr"),
            ("ma", b"a", b"MD D5", {"D": 5}, "decr"),
            ("ma", b"a", b"M+ J9 N1", {"J": 9, "N": 1}, "incr"),
            ("ma", b"a", b"M-", {}, "decr"),
        ],
    ),
    Golden("ma with wrong flags", b"ma a y\r\nma a Dx\r\nma a Zm9 b\r\n", [error("invalid or duplicate flag")] * 3),
    Golden("ma with a wrong mode", b"ma a Mi\r\n", [error("invalid mode for ma M token")]),
    Golden("ma of a long key", b"ma " + LONG + b"\r\n", [BAD_LINE]),
    Golden("mn", b"mn\r\nmn and more\n mn \r\n", [NOOP, NOOP, NOOP]),
    Golden("me", b"me a\r\nme a b\r\nme YQ== b\r\nme\r\n", [("me", b"a", 0, 0, False), BAD_LINE, ("me", b"a", 0, 0, False), BAD_LINE]),
]
