"""Bad inputs end with status 2 and one message; and inputs that must work."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from verb_jobs import LEGAL, settings, texts, write_corpus

from domain_ft import cli
from domain_ft_kernels.triton_backend import launch


def command(tmp_path: Path, **changes: str) -> list[str]:
    """The words of a small run of adapt, with options changed."""
    asked = settings(tmp_path)
    options = {
        "corpus": asked.corpus,
        "control": asked.control,
        "model": asked.model,
        "output": str(tmp_path / "run"),
        "max-steps": "2",
        "max-length": "64",
        "tokens-per-step": "400",
        "evaluation-fraction": "0.2",
        "evaluation-tokens": "1000",
    }
    words = ["adapt"]
    for name, value in {**options, **{key.replace("_", "-"): value for key, value in changes.items()}}.items():
        words += [f"--{name}", str(value)]
    return words


def file(tmp_path: Path, name: str, content: str | bytes) -> str:
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return str(path)


BAD: dict[str, tuple[Callable[[Path], dict[str, str]], tuple[str, ...]]] = {
    "a path that is not there": (lambda p: {"corpus": str(p / "absent.jsonl")}, ("absent.jsonl",)),
    "an unknown corpus": (lambda p: {"corpus": "leagl"}, ("leagl", "did you mean 'legal'?", "medical")),
    "an unknown model": (lambda p: {"model": "minilmm"}, ("minilmm", "minilm", "smollm2")),
    "an empty file": (lambda p: {"corpus": file(p, "empty.jsonl", "")}, ("empty.jsonl", "empty")),
    "a binary file": (lambda p: {"corpus": file(p, "image.txt", b"\x89PNG\0\0\1" * 50)}, ("image.txt",)),
    "bytes that are no UTF-8": (
        lambda p: {"corpus": file(p, "latin.txt", "une très".encode("latin-1"))},
        ("latin.txt", "UTF-8"),
    ),
    "broken JSON in line 3": (
        lambda p: {"corpus": file(p, "broken.jsonl", '{"text": "a"}\n{"text": "b"}\n{"text": "c\n')},
        ("broken.jsonl", "line 3", "--on-bad-record skip"),
    ),
    "a CSV without the field": (
        lambda p: {"corpus": file(p, "table.csv", "id,body\n1,hello\n"), "text_field": "text"},
        ("table.csv", "text", "body"),
    ),
    "a text that is no string": (
        lambda p: {"corpus": file(p, "typed.jsonl", '{"text": "a"}\n{"text": 7}\n')},
        ("typed.jsonl", "line 2", "text"),
    ),
    "zero usable documents": (
        lambda p: {"corpus": file(p, "blank.jsonl", '{"text": " "}\n{"text": "\\n\\n"}\n')},
        ("blank",),
    ),
    "an ending that nothing reads": (lambda p: {"corpus": file(p, "report.odt", "x")}, (".odt", ".txt")),
    "a model folder without weights": (lambda p: {"model": str(p)}, ("config.json",)),
    "a rank of zero": (lambda p: {"rank": "0"}, ("--rank 0", "at least 1")),
    "a target that matches nothing": (lambda p: {"targets": "no_such_layer"}, ("no_such_layer",)),
    "a GPU that is not there": (lambda p: {"device": "cuda"}, ("--device cuda", "--device cpu")),
    "kernels that cannot run": (lambda p: {"kernels": "triton"}, ("--kernels triton", "on a GPU", "--kernels auto")),
    "a tracker that is not there": (lambda p: {"track": "tensorbord"}, ("tensorbord", "tensorboard")),
    "nothing to resume": (lambda p: {"resume": ""}, ("nothing to resume",)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_gives_one_message(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, expected = BAD[name]
    monkeypatch.setattr(launch, "interpreting", lambda: False)  # as on a user's machine
    if name == "a GPU that is not there" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    words = [word for word in command(tmp_path, **make(tmp_path)) if word]
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    said = " ".join(captured.err.split())
    for part in expected:
        assert part in said, said
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert not (tmp_path / "run" / "result.json").exists()


def test_all_that_is_wrong_is_reported_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(tmp_path, rank="many", schedule="cosin", learning_rte="1e-3")) == 2
    said = capsys.readouterr().err
    assert "--rank" in said
    assert "cosine" in said
    assert "--learning-rate" in said


def test_a_folder_with_another_run_or_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.docx").write_text("years of work")
    assert cli.main(command(tmp_path)) == 2
    assert "not empty" in capsys.readouterr().err
    assert (run / "thesis.docx").read_text() == "years of work"
    (run / "thesis.docx").unlink()
    (run / "result.json").write_text("{}")
    assert cli.main(command(tmp_path)) == 2
    assert "finished run" in capsys.readouterr().err
    assert (run / "result.json").read_text() == "{}"


def test_an_output_folder_below_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(command(tmp_path, output=str(tmp_path / "file" / "run"))) == 2
    assert "--output" in capsys.readouterr().err


def test_an_output_folder_without_write_permission_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root can write to every folder, so the system's error is simulated."""
    words = command(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert cli.main(words) == 2
    assert "Permission denied" in capsys.readouterr().err


# --- Inputs that must work ------------------------------------------------------------------------------------------


def folder_of_texts(path: Path) -> str:
    folder = path / "letters"
    (folder / "more").mkdir(parents=True)
    for index, text in enumerate(texts(LEGAL, 30, "letters")):
        (folder / ("more" if index % 2 else "") / f"{index}.txt").write_text(text)
    return str(folder)


def csv_with_quoted_newlines(path: Path) -> str:
    rows = "".join(f'{i},"{text[:40]}\n{text[40:]}"\n' for i, text in enumerate(texts(LEGAL, 30, "quoted")))
    return file(path, "quoted.csv", f"id,text\n{rows}")


def parquet(path: Path) -> str:
    pq.write_table(pa.table({"text": texts(LEGAL, 30, "parquet")}), path / "table.parquet")
    return str(path / "table.parquet")


def gzipped_lines(path: Path) -> str:
    lines = "\n".join(json.dumps({"text": text}) for text in texts(LEGAL, 30, "gzipped"))
    (path / "lines.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return str(path / "lines.jsonl.gz")


def one_long_document(path: Path) -> str:
    return file(path, "book.txt", "\n\n".join(texts(LEGAL, 40, "book")))


@pytest.mark.parametrize(
    "make",
    [
        folder_of_texts,
        csv_with_quoted_newlines,
        *(pytest.param(make, marks=pytest.mark.slow) for make in (parquet, gzipped_lines, one_long_document)),
    ],
)
def test_every_kind_of_corpus_works_from_the_command_line(
    make: Callable[[Path], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(tmp_path, corpus=make(tmp_path))
    assert cli.main([*words, "--json"]) == 0, capsys.readouterr().err
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 2
    assert result["before"]["domain"]["tokens"] > 0


@pytest.mark.slow
def test_a_document_of_five_million_characters_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_corpus(tmp_path / "with-a-giant.jsonl")
    giant = " ".join(texts(LEGAL, 900, "giant") * 10)[:5_000_000]
    assert len(giant) == 5_000_000
    with corpus.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"text": giant}) + "\n")
    assert cli.main([*command(tmp_path, corpus=str(corpus)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2
