"""The scripted server, and a back end that talks to it without waiting long."""

import importlib.util
from pathlib import Path

import pytest

from bibier_hf.llm import get_backend

SERVER_SCRIPT = Path(__file__).with_name("fake_server.py")
_spec = importlib.util.spec_from_file_location("fake_server", SERVER_SCRIPT)
fake_server_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake_server_module)


@pytest.fixture(scope="session")
def fake():
    """The module `fake_server`: `FakeServer`, `Reply`, `text_reply`, `GOOD`."""
    return fake_server_module


@pytest.fixture
def serve(fake):
    """`serve(respond)` -> a server that is closed after the test."""
    servers = []

    def start(respond):
        servers.append(fake.FakeServer(respond))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def backend_to():
    """`backend_to(server, ..., **options)` -> a back end of these servers with short delays."""

    def connect(*servers, **options):
        defaults = {"timeout_s": 0.5, "base_delay_s": 0.02, "max_attempts": 4, "concurrency": 8}
        return get_backend("openai", "tiny", base_urls=[server.url for server in servers], **(defaults | options))

    return connect
