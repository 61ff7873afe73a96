"""What all tests share: a cache of their own, one thread a process, no hub, and Triton interpreted."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator

# Before anything imports torch, tokenizers, huggingface_hub or triton, which read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on CPU tensors; to compile them takes a process without it

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


@pytest.fixture(autouse=True)
def _exact_kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """In the tests of the kernels Triton's interpreter computes as a GPU does."""
    if request.path.parent.name != "kernels" or importlib.util.find_spec("triton") is None:
        yield
        return
    from interpreter import exact_bfloat16  # a module beside those tests

    with exact_bfloat16():
        yield
