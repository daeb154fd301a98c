"""TLS on TCP listeners (``-Z``)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TlsOptions:
    """What ``-Z`` and ``-o ssl_...`` ask for, by memcached's names without the ``ssl_``; files are in PEM format."""

    chain_cert: str
    #: Empty: the private key is in ``chain_cert``.
    key: str = ""
    #: Who signs clients' certificates; empty: none is known.
    ca_cert: str = ""
    #: A client's certificate is 0 not asked for, 1 asked for, 2 required, 3 asked for at the first handshake only.
    verify_mode: int = 0
    #: tlsv1.0 to tlsv1.3.
    min_version: str = "tlsv1.2"
    #: OpenSSL's list for TLS 1.2 and before; empty: its default.
    ciphers: str = ""
    session_cache: bool = False
