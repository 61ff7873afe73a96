"""Shared by all tests: a separate cache, one thread per process, no hub, and Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator

# torch, tokenizers, huggingface_hub and triton read these only once, so they are set before their imports.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault(
    "TRITON_INTERPRET", "1"
)  # kernels run on CPU tensors; to compile them, start a process without it

import hypothesis
import pytest

USERS_CACHE = os.environ.get("DOMAIN_FT_CACHE")

hypothesis.settings.register_profile("tests", deadline=None)  # a slow example on a busy machine is not a failure
hypothesis.settings.load_profile("tests")


_TESTS_CACHE = tempfile.TemporaryDirectory(prefix="domain-ft-tests-", ignore_cleanup_errors=True)


def pytest_unconfigure() -> None:
    _TESTS_CACHE.cleanup()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that need embedded assets use the user's cache, so assets are downloaded once. Others use the session's.

    This is a hook instead of a fixture, so that it runs before all fixtures, also those of modules and of the session.
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
    """In the tests of the kernels, Triton's interpreter computes bfloat16 as a GPU does."""
    if request.path.parent.name != "kernels" or importlib.util.find_spec("triton") is None:
        yield
        return
    from interpreter import exact_bfloat16  # in tests/kernels

    with exact_bfloat16():
        yield


@pytest.fixture(autouse=True)
def _figures_not_rendered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast tests of verbs build their reports' figures but do not render them: that takes two fifths of a tiny run.

    Slow tests, module fixtures and tests/report render them.
    """
    if request.path.parent.name == "verbs" and request.node.get_closest_marker("slow") is None:
        from domain_ft.report import drawing

        monkeypatch.setattr(drawing.Figure, "savefig", lambda self, file, **how: file.write("<svg ></svg>"))
