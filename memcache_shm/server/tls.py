"""TLS on TCP listeners (``-Z``): from the options to a context, with errors for people.

``ssl`` is imported late: a daemon without TLS does not pay its 11 ms and 2 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from memcache_shm.errors import MemcacheError

if TYPE_CHECKING:
    import ssl


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


def make_context(options: TlsOptions) -> ssl.SSLContext:
    """For the server's side of connections. Raises MemcacheError with cause and remedy."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    _set_version(context, options.min_version)
    _load_certificate(context, options)
    _set_verification(context, options)
    if options.ciphers:
        try:
            context.set_ciphers(options.ciphers)
        except ssl.SSLError:
            raise MemcacheError(f"-o ssl_ciphers: {options.ciphers!r} selects none; see 'openssl ciphers -v'") from None
    return context


def _set_version(context: ssl.SSLContext, version: str) -> None:
    import ssl

    versions = {
        "tlsv1.0": ssl.TLSVersion.TLSv1,
        "tlsv1.1": ssl.TLSVersion.TLSv1_1,
        "tlsv1.2": ssl.TLSVersion.TLSv1_2,
        "tlsv1.3": ssl.TLSVersion.TLSv1_3,
    }
    if version not in versions:
        raise MemcacheError(f"-o ssl_min_version: {version!r} is none of {', '.join(versions)}")
    context.minimum_version = versions[version]


def _load_certificate(context: ssl.SSLContext, options: TlsOptions) -> None:
    """OpenSSL names neither the file nor the reason, so each file is looked at first."""
    import ssl

    key = options.key or options.chain_cert
    option = "ssl_key" if options.key else "ssl_chain_cert"
    _check_pem("ssl_chain_cert", options.chain_cert, b"CERTIFICATE-----")
    _check_pem(option, key, b"PRIVATE KEY-----")
    try:
        context.load_cert_chain(options.chain_cert, key, password=lambda: "")  # else OpenSSL asks the terminal
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise MemcacheError(
                f"-o {option}: the key in {key} is not that of the certificate in {options.chain_cert}; name both"
            ) from None
        raise MemcacheError(
            f"-o ssl_chain_cert: cannot use {options.chain_cert} with the key in {key} ({error.reason or error}); "
            "check them with 'openssl x509' and 'openssl pkey'; the key must have no passphrase"
        ) from None


def _check_pem(option: str, path: str, mark: bytes) -> None:
    """Whether the file can be read and has such a part."""
    what = "a private key" if b"KEY" in mark else "a certificate"
    try:
        with open(path, "rb") as file:
            found = mark in file.read()
    except OSError as error:
        raise MemcacheError(f"-o {option}: cannot read {path!r}: {error.strerror}; name a PEM file with {what}") from None
    if not found:
        raise MemcacheError(f"-o {option}: {path} has no part {mark.decode()}; name a PEM file with {what}")


def _set_verification(context: ssl.SSLContext, options: TlsOptions) -> None:
    """memcached's modes; 3 differs from 1 in renegotiations only, and there are none."""
    import ssl

    modes = (ssl.CERT_NONE, ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL)
    if not 0 <= options.verify_mode < len(modes):
        raise MemcacheError(f"-o ssl_verify_mode: {options.verify_mode} is none of 0 (none), 1 (request), 2 (require), 3 (once)")
    context.verify_mode = modes[options.verify_mode]
    if options.ca_cert:
        _check_pem("ssl_ca_cert", options.ca_cert, b"CERTIFICATE-----")
        try:
            context.load_verify_locations(options.ca_cert)
        except ssl.SSLError as error:
            raise MemcacheError(
                f"-o ssl_ca_cert: cannot use {options.ca_cert} ({error.reason or error}); check it with 'openssl x509'"
            ) from None
    elif context.verify_mode == ssl.CERT_REQUIRED:
        raise MemcacheError(
            "-o ssl_verify_mode=2: no client could be verified; name their authority's certificate with -o ssl_ca_cert=FILE"
        )
