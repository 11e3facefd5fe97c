"""Fixtures for the tests of the session."""

from collections.abc import Callable
from typing import Any

import pytest

from landline.session.session import Session
from landline.session.settings import Heartbeat, Limits, SendBuffer


@pytest.fixture(scope="session")
def make_session() -> Callable[..., Session]:
    """Return a function that creates one side, attached at time 0 (unless ``attached=False``)."""

    def make(*, attached: bool = True, phase: float = 0.0, **options: Any) -> Session:
        session = Session(
            **{
                "session_id": bytes(16),
                "secret": bytes(32),
                "is_server": True,
                "limits": Limits(),
                "peer_limits": Limits(),
                "heartbeat": Heartbeat(),
                "send_buffer": SendBuffer(),
                **options,
            }
        )
        if attached:
            session.attach(0.0, epoch=1, peer_received=0, phase=phase)
        return session

    return make
