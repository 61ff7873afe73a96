"""Verbs in several processes: one run folder, one output, and the numbers of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import pytest
import torch
from classify_jobs import settings as classify_settings
from instruct_jobs import settings as instruct_settings
from prefer_jobs import settings as prefer_settings
from safetensors.torch import load_file
from verb_jobs import settings

from domain_ft import cli
from domain_ft.errors import SettingsError
from domain_ft.evaluation.predictions import Predictions
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.shared import machine as machines
from domain_ft.verbs.shared.machine import Machine, choose_machine

LAUNCHED_FOR_FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}
"""What `accelerate launch --use_fsdp --fsdp_version 2` sets; its launcher refuses to do so on a CPU."""

LOGITS = 1e-4
"""The tolerance: sums in another order changed logits of up to 1.7 by at most 1.7e-6 in float32, after 60 steps."""


def domain_ft(folder: Path, arguments: list[str], *, ranks: int = 1, **variables: str) -> str:
    """Run the program in `ranks` processes; return their standard output."""
    said = Path(tempfile.mkdtemp(dir=folder)) / "said"
    done = forked.run(cli.main, arguments, ranks=ranks, said=said, OMP_NUM_THREADS="1", **variables)
    assert not any(done.codes), done.stderr[-4000:]
    return done.stdout


def torchrun(ranks: int, arguments: list[str], *, code: int = 0) -> str:
    """Run the program with torchrun, as a user does; return its standard output, or standard error if it must fail."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "domain_ft", *arguments],
        capture_output=True,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        timeout=600,
        check=False,
    )
    assert done.returncode == code, done.stderr[-4000:]
    return done.stderr if code else done.stdout


def job(folder: Path, name: str, **changes: Any) -> list[str]:
    """The arguments of an `adapt` into `folder`/`name`; all of a folder's jobs read the same text and model."""
    config = folder / f"{name}.toml"
    config.write_text(settings(folder, output=folder / name, **changes).to_toml(), encoding="utf-8")
    return ["adapt", "--config", str(config), "--json"]


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def compare(run: Path, alone: Path, *, processes: int) -> None:
    """Check that the run of several processes is that of one, up to the rounding of float32 sums."""
    assert {path.relative_to(run) for path in run.rglob("*")} == {path.relative_to(alone) for path in alone.rglob("*")}
    result, expected = (json.loads((folder / "result.json").read_text()) for folder in (run, alone))
    assert (result["processes"], expected["processes"]) == (processes, 1)
    assert result["before"] == expected["before"]
    for role in ("domain", "control"):
        assert result["after"][role]["tokens"] == expected["after"][role]["tokens"]
        assert result["after"][role]["loss"] == pytest.approx(expected["after"][role]["loss"], rel=1e-4)
    assert [line["tokens"] for line in lines(run)] == [line["tokens"] for line in lines(alone)]
    assert [line["loss"] for line in lines(run)] == pytest.approx([line["loss"] for line in lines(alone)], rel=1e-4)


@pytest.mark.slow
def test_processes_make_one_run_folder_with_the_numbers_of_one(tmp_path: Path) -> None:
    alone = domain_ft(tmp_path, job(tmp_path, "alone"))
    assert json.loads(alone)["processes"] == 1
    together = torchrun(2, job(tmp_path, "together"))
    assert json.loads(together)["processes"] == 2  # printed by only one of the two processes
    compare(tmp_path / "together", tmp_path / "alone", processes=2)
    weights, expected = (
        load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("together", "alone")
    )
    for name in weights:
        torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=2e-4)


@pytest.mark.slow
def test_a_sharded_run_saves_a_whole_model(tmp_path: Path) -> None:
    domain_ft(tmp_path, job(tmp_path, "alone", method="full", learning_rate=1e-3))
    domain_ft(tmp_path, job(tmp_path, "sharded", method="full", learning_rate=1e-3), ranks=2, **LAUNCHED_FOR_FSDP)
    compare(tmp_path / "sharded", tmp_path / "alone", processes=2)
    assert 'sharding = "full"' in (tmp_path / "sharded" / "config.toml").read_text()
    models = [str(tmp_path / name) for name in ("alone", "sharded")]
    asked = settings(tmp_path)
    arguments = ["evaluate", "--corpus", asked.corpus, "--control", "none", "--max-length", "64", "--json"]
    scored = domain_ft(tmp_path, [*arguments, "--model", models[0], "--model", models[1]], ranks=2)
    one, other = (model["scores"]["domain"]["loss"] for model in json.loads(scored)["models"])
    assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_instruct_by_two_processes_trains_what_one_trains(sharding: str, tmp_path: Path) -> None:
    found = {}
    for name, ranks in (("alone", 1), ("together", 2)):
        asked = instruct_settings(tmp_path, output=tmp_path / name, sharding=sharding)
        config = tmp_path / f"{name}.toml"
        config.write_text(asked.to_toml(), encoding="utf-8")
        found[name] = json.loads(domain_ft(tmp_path, ["instruct", "--config", str(config), "--json"], ranks=ranks))
    alone, together = found["alone"], found["together"]
    assert (alone["processes"], together["processes"]) == (1, 2)
    assert together["before"] == alone["before"]
    for name in ("tokens_seen", "tokens_trained", "steps", "examples"):
        assert together[name] == alone[name]
    for role in ("test", "control"):
        assert together["after"][role]["loss"] == pytest.approx(alone["after"][role]["loss"], rel=1e-4)
    weights, expected = (load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in found)
    assert weights.keys() == expected.keys()
    for name in weights:
        torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "sharding"), [("dpo", "none"), ("dpo", "full"), ("kto", "none")])
def test_prefer_by_two_processes_trains_what_one_trains(loss: str, sharding: str, tmp_path: Path) -> None:
    """KTO's baseline is that of the whole step, over both processes."""
    found = {}
    for name, ranks in (("alone", 1), ("together", 2)):
        asked = prefer_settings(tmp_path, output=tmp_path / name, loss=loss, sharding=sharding)
        config = tmp_path / f"{name}.toml"
        config.write_text(asked.to_toml(), encoding="utf-8")
        found[name] = json.loads(domain_ft(tmp_path, ["prefer", "--config", str(config), "--json"], ranks=ranks))
    alone, together = found["alone"], found["together"]
    assert (alone["processes"], together["processes"]) == (1, 2)
    assert together["before"] == alone["before"]
    for name in ("tokens_seen", "steps", "examples"):
        assert together[name] == alone[name]
    for name in ("margin", "chosen_log_prob", "kl_per_token"):
        assert together["after"]["test"][name] == pytest.approx(alone["after"]["test"][name], rel=1e-3)
    losses = [[line["loss"] for line in lines(tmp_path / name)] for name in ("alone", "together")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_every_trial_of_processes_is_that_of_one(tmp_path: Path) -> None:
    """Both seeds train the same weights; the DDP wrapper of the first must not take part in the second."""
    results = []
    for name, ranks in (("alone", 1), ("together", 2)):
        asked = classify_settings(tmp_path, output=tmp_path / name, method="full", seeds=2, max_steps=60)
        config = tmp_path / f"{name}.toml"
        config.write_text(asked.to_toml(), encoding="utf-8")
        results.append(json.loads(domain_ft(tmp_path, ["classify", "--config", str(config), "--json"], ranks=ranks)))
    assert [result["processes"] for result in results] == [1, 2]
    for seed in (0, 1):
        path = Path("predictions") / f"test-seed-{seed}.npz"
        alone, together = (Predictions.load(tmp_path / name / path) for name in ("alone", "together"))
        torch.testing.assert_close(
            torch.from_numpy(together.logits), torch.from_numpy(alone.logits), rtol=0, atol=LOGITS
        )


@pytest.mark.slow
def test_what_is_wrong_ends_all_processes(tmp_path: Path) -> None:
    arguments = job(tmp_path, "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").touch()
    assert "is not empty and holds no run" in torchrun(2, arguments, code=1)  # torchrun's own status
    assert not (tmp_path / "run" / "config.toml").exists()


def test_the_first_version_of_fsdp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(SettingsError, match="FSDP version 1"):
        choose_machine(AdaptSettings(corpus="legal"))


def test_one_process_has_nothing_to_shard() -> None:
    machine = choose_machine(AdaptSettings(corpus="legal"), sharding="full")
    assert (machine.processes, machine.sharded) == (1, False)


def test_processes_that_disagree_are_told_on_what(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(SimpleNamespace(num_processes=2), "float32", "torch")
    other = {"seed": 1, "tokens": "a", "base model": "x"}
    monkeypatch.setattr(machines, "gather_object", lambda own: [*own, other])
    with pytest.raises(SettingsError, match=r"do not have the same seed, base model\n"):
        machine.agree({"seed": 0, "tokens": "a", "base model": "y"}, torch.nn.Linear(1, 1))
