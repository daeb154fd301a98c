"""The dialects: bytes in -> request, result -> bytes out. No socket and no table is known here."""
