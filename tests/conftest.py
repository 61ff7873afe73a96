"""What all tests share: a cache of their own, one thread a process, and no hub."""

from __future__ import annotations

import os
import tempfile

# Before anything imports torch, tokenizers or huggingface_hub, which read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest

USERS_CACHE = os.environ.get("DOMAIN_FT_CACHE")

hypothesis.settings.register_profile("tests", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("tests")


_TESTS_CACHE = tempfile.TemporaryDirectory(prefix="domain-ft-tests-", ignore_cleanup_errors=True)


def pytest_unconfigure() -> None:
    _TESTS_CACHE.cleanup()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give every test the session's own cache, but those that need embedded assets the user's: a fetch is made once.

    A hook and not a fixture, so that it comes before the fixtures of a module or session too.
    """
    needs_assets = item.get_closest_marker("assets") is not None
    _use_cache(USERS_CACHE if needs_assets else _TESTS_CACHE.name)


def _use_cache(folder: str | None) -> None:
    if folder is None:
        os.environ.pop("DOMAIN_FT_CACHE", None)
    else:
        os.environ["DOMAIN_FT_CACHE"] = folder
