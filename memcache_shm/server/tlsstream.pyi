"""The TLS layer of one connection; used from Cython."""

import ssl

class TlsStream:
    """The server's side of one connection's TLS."""

    def __init__(self, context: ssl.SSLContext) -> None: ...
