"""What every test gets: no network, a clean environment, its own random state."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"  # the hub library reads it once, when it is first imported

sys.path.insert(0, str(Path(__file__).parent))  # `import builders` and `import media` from any test file

settings.register_profile("default", deadline=None, max_examples=60)
settings.load_profile("default")

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections may go to this machine only."""
    real = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else None
        if self.family in (socket.AF_INET, socket.AF_INET6) and host not in _LOOPBACK:
            raise RuntimeError(f"a test tried to reach {address!r}; tests use no network")
        real(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the developer's shell reaches a test, and no test writes into a real home."""
    for name in [name for name in os.environ if name.startswith("GUARD_") and name != "GUARD_VLLM_PYTHON"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GUARD_HOME", str(tmp_path / "guard-home"))


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    state, numpy_state = random.getstate(), np.random.get_state()
    yield
    random.setstate(state)
    np.random.set_state(numpy_state)
