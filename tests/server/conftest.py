"""What tests of the server share."""

from __future__ import annotations

import pytest
from support.tls import Certificate, make_certificate


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate that nobody trusts."""
    return make_certificate(tmp_path_factory.mktemp("stranger"), "stranger")
