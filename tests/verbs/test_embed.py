"""`embed`: a vector for each text, in order, in three formats, also after rejected records and interruptions."""

from __future__ import annotations

import io
import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from classify_jobs import records, write_csv, write_jsonl
from tiny_models import save_tiny
from verb_jobs import settings as adapt_settings

from domain_ft.errors import ModelError, RecordError, SettingsError
from domain_ft.models.sentence_facts import SentenceFacts
from domain_ft.models.sentence_model import load_sentence_model
from domain_ft.verbs.adapt.run import adapt
from domain_ft.verbs.embed import outputs
from domain_ft.verbs.embed import run as embed_verb
from domain_ft.verbs.embed.run import embed
from domain_ft.verbs.embed.settings import EmbedSettings
from domain_ft.verbs.export.run import export
from domain_ft.verbs.export.settings import ExportSettings

PROMPTS = {"query": "query: ", "passage": "passage: "}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sentence model."""
    folder = save_tiny("bert", tmp_path_factory.mktemp("embed") / "sentences")
    SentenceFacts("mean", True, 32, prompts=PROMPTS).save(folder, 32)
    return folder


def asked(model: Path, **changes: Any) -> EmbedSettings:
    return EmbedSettings(**{"model": str(model), "input": "-", "quiet": True, **changes})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def expected(model: Path, rows: list[dict[str, Any]], prompt: str = "") -> Any:
    return load_sentence_model(str(model)).encode([row["text"] for row in rows], prompt=prompt).vectors


def test_three_formats_hold_the_same_vectors(model: Path, tmp_path: Path) -> None:
    rows = records(9)
    texts = write_jsonl(tmp_path / "texts.jsonl", rows)
    for name in ("out.jsonl", "out.npy", "out.parquet"):
        result = embed(asked(model, input=str(texts), output=tmp_path / name))
        assert (result["texts"], result["dimensions"], result["rejected"]) == (9, 32, 0)
    wanted, names = expected(model, rows), [row["id"] for row in rows]

    array = np.load(tmp_path / "out.npy")
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, wanted, atol=2e-6)
    assert [line["id"] for line in lines(tmp_path / "out.npy.ids.jsonl")] == names

    found = lines(tmp_path / "out.jsonl")
    assert [line["id"] for line in found] == names
    np.testing.assert_array_equal(np.array([line["vector"] for line in found], dtype=np.float32), array)

    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.equals(pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32(), 32))]))
    assert table["id"].to_pylist() == names
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), dtype=np.float32), array)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_prompts_and_dimensions(model: Path, tmp_path: Path) -> None:
    rows = records(4)
    texts = write_csv(tmp_path / "texts.csv", rows)

    def made(name: str, **changes: Any) -> Any:
        embed(asked(model, input=str(texts), output=tmp_path / f"{name}.npy", **changes))
        return np.load(tmp_path / f"{name}.npy")

    np.testing.assert_allclose(made("named", prompt="query"), expected(model, rows, "query: "), atol=2e-6)
    np.testing.assert_allclose(made("given", prompt="find: "), expected(model, rows, "find: "), atol=2e-6)
    short = made("short", dimensions=8)
    first = expected(model, rows)[:, :8]
    np.testing.assert_allclose(short, first / np.linalg.norm(first, axis=1, keepdims=True), atol=2e-6)
    with pytest.raises(ModelError, match="32 dimensions, fewer than 33"):
        made("long", dimensions=33)
    with pytest.raises(ModelError, match="no prompt named 'passages'"):
        made("wrong", prompt="passages")
    assert not list(tmp_path.glob("long*")) + list(tmp_path.glob("wrong*"))


def test_half_precision_is_a_choice(model: Path, tmp_path: Path) -> None:
    rows = records(5)
    texts = write_jsonl(tmp_path / "texts.jsonl", rows)
    assert asked(model).dtype == "float32"
    embed(asked(model, input=str(texts), output=tmp_path / "half.npy", dtype="bfloat16"))
    difference = np.abs(np.load(tmp_path / "half.npy") - expected(model, rows)).max()
    assert 1e-5 < difference < 2e-2


def test_standard_input_and_output(model: Path) -> None:
    out = io.StringIO()
    text = "the court shall decide\nライセンス\n".encode()
    result = embed(asked(model), stdin=io.BytesIO(text), stdout=out)
    found = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["id"] for line in found] == ["standard input:1", "standard input:2"]
    rows = [{"text": "the court shall decide"}, {"text": "ライセンス"}]
    np.testing.assert_allclose([line["vector"] for line in found], expected(model, rows), atol=2e-6)
    assert (result["texts"], result["output"]) == (2, None)


@pytest.mark.parametrize("ending", ["jsonl", "npy", "parquet"])
def test_rows_stay_with_their_ids_when_records_are_rejected(model: Path, tmp_path: Path, ending: str) -> None:
    rows = records(4)
    good = [json.dumps(row) for row in rows]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join([good[0], '{"text": ', good[1], '{"text": " \\u200b"}', '{"text": ""}', *good[2:]]))
    output = tmp_path / f"out.{ending}"
    result = embed(asked(model, input=str(texts), output=output))
    empty = result["rejected"]
    assert [reject["line"] for reject in lines(tmp_path / f"{output.name}.rejects.jsonl")][-1] == 5
    assert result["texts"] == 7 - empty
    names: Any
    vectors: Any
    if ending == "npy":
        names = [line["id"] for line in lines(outputs.ids_path(output))]
        vectors = np.load(output)
    elif ending == "jsonl":
        names, vectors = zip(*((line["id"], line["vector"]) for line in lines(output)), strict=True)
    else:
        names, vectors = pq.read_table(output).to_pydict().values()
    assert len(names) == len(vectors)
    wanted = dict(zip((row["id"] for row in rows), expected(model, rows), strict=True))
    for name, vector in zip(names, vectors, strict=True):
        if name in wanted:
            np.testing.assert_allclose(vector, wanted.pop(name), atol=2e-6)
    assert not wanted
    with pytest.raises(RecordError, match="line 2"):
        embed(asked(model, input=str(texts)), stdout=io.StringIO())


def test_an_interrupted_array_is_continued(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut anywhere, the array is completed to that of an uninterrupted call."""
    texts = write_jsonl(tmp_path / "texts.jsonl", records(11))
    monkeypatch.setattr(embed_verb, "BATCH", 4)
    embed(asked(model, input=str(texts), output=tmp_path / "whole.npy"))
    whole, begin = np.load(tmp_path / "whole.npy"), (tmp_path / "whole.npy").stat().st_size - 11 * 32 * 4
    names = (tmp_path / "whole.npy.ids.jsonl").read_bytes()
    kept = len(b"\n".join(names.split(b"\n")[:8])) + 1  # bytes of eight ids
    # (bytes of the array, bytes of the ids): rows are written before their ids, and the header last.
    for number, (rows, ids) in enumerate(
        [(begin + 11 * 128, len(names)), (begin + 8 * 128, kept), (begin + 9 * 128 + 5, kept - 3), (begin, 0), (0, 0)]
    ):
        output = tmp_path / f"cut-{number}.npy"
        output.write_bytes((tmp_path / "whole.npy").read_bytes()[:rows])
        outputs.ids_path(output).write_bytes(names[:ids])
        shutil.copy(tmp_path / "whole.npy.ids.jsonl.state.jsonl", f"{outputs.ids_path(output)}.state.jsonl")
        result = embed(asked(model, input=str(texts), output=output, resume=True))
        assert (result["texts"], result["done_before"]) == (11, names[:ids].count(b"\n"))
        np.testing.assert_allclose(np.load(output), whole, atol=2e-6)
        assert outputs.ids_path(output).read_bytes() == names


def test_an_array_can_be_read_while_it_is_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", records(10))
    shapes = []
    monkeypatch.setattr(embed_verb, "BATCH", 4)
    monkeypatch.setattr(embed_verb, "release_free_memory", lambda: shapes.append(np.load(tmp_path / "out.npy").shape))
    embed(asked(model, input=str(texts), output=tmp_path / "out.npy"))
    assert shapes == [(4, 32), (8, 32), (10, 32)]


def test_an_output_is_continued_only_with_the_same_options_and_model(model: Path, tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", records(6))
    for name in ("out.jsonl", "out.npy"):
        output = tmp_path / name
        embed(asked(model, input=str(texts), output=output))
        listed = output if name == "out.jsonl" else outputs.ids_path(output)
        listed.write_bytes(listed.read_bytes()[:-4])
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        for said, changes in (
            ("it was started with no --prompt, this call has --prompt query: ", {"prompt": "query"}),
            ("it was started with --dimensions 32, this call has --dimensions 4", {"dimensions": 4}),
            ("no --text-field, this call has --text-field text", {"text_field": "text"}),
        ):
            with pytest.raises(SettingsError, match=said):
                embed(asked(model, input=str(texts), output=output, resume=True, **changes))
        other = tmp_path / f"other-{name}"
        shutil.copytree(model, other)
        SentenceFacts("cls", True, 32, prompts=PROMPTS).save(_without_facts(other), 32)
        with pytest.raises(SettingsError, match="its answers are from another model"):
            embed(asked(other, input=str(texts), output=output, resume=True))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
        result = embed(asked(model, input=str(texts), output=output, resume=True))
        assert (result["done_before"], result["texts"]) == (5, 6)
        with pytest.raises(SettingsError, match="exists already"):
            embed(asked(model, input=str(texts), output=output))


def _without_facts(folder: Path) -> Path:
    shutil.rmtree(folder / "1_Pooling")
    shutil.rmtree(folder / "2_Normalize")
    return folder


def test_an_array_that_is_not_ours_is_never_changed(model: Path, tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", records(3))
    output = tmp_path / "out.npy"
    np.save(output, np.zeros((3, 32), dtype=np.float32))
    before = output.read_bytes()
    with pytest.raises(SettingsError, match="exists already"):
        embed(asked(model, input=str(texts), output=output))
    with pytest.raises(SettingsError, match="is not the array that"):
        embed(asked(model, input=str(texts), output=output, resume=True))
    assert output.read_bytes() == before
    output.unlink()
    embed(asked(model, input=str(texts), output=output))
    output.rename(tmp_path / "moved.npy")
    with pytest.raises(SettingsError, match=r"lists 3 vectors, but .* is not there"):
        embed(asked(model, input=str(texts), output=output, resume=True))
    np.save(output, np.zeros((3, 16), dtype=np.float32))
    with pytest.raises(SettingsError, match="is not the array that"):
        embed(asked(model, input=str(texts), output=output, resume=True))


def test_a_parquet_file_is_complete_or_absent(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", records(10))
    output = tmp_path / "out.parquet"
    monkeypatch.setattr(embed_verb, "BATCH", 4)
    monkeypatch.setattr(outputs, "_ROW_GROUP", 4)

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(embed_verb, "release_free_memory", stop)
        embed(asked(model, input=str(texts), output=output))
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]
    with pytest.raises(SettingsError, match="either complete or not there"):
        embed(asked(model, input=str(texts), output=output, resume=True))
    embed(asked(model, input=str(texts), output=output))
    assert pq.ParquetFile(output).metadata.num_row_groups == 3
    assert pq.read_table(output).num_rows == 10


def test_outputs_that_do_not_fit_are_refused(model: Path, tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", records(2))
    with pytest.raises(SettingsError, match="the format of the vectors is not clear"):
        embed(asked(model, input=str(texts), output=tmp_path / "out.csv"))
    with pytest.raises(SettingsError, match="are the same file"):
        embed(asked(model, input=str(texts), output=tmp_path / "o.npy", rejects=tmp_path / "o.npy.ids.jsonl"))
    with pytest.raises(SettingsError, match="cannot both go to standard output"):
        embed(asked(model, json=True))
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


def test_nothing_to_embed_is_an_empty_array(model: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n")
    embed(asked(model, input=str(texts), output=tmp_path / "out.npy"))
    assert np.load(tmp_path / "out.npy").shape == (0, 32)


def test_the_summary_says_what_was_cut_and_left_out(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": "the court " * 40, "source": "x"}, {"text": "bones"}])
    result = embed_verb.run(asked(model, input=str(texts), output=tmp_path / "out.npy", quiet=False))
    assert (result["truncated"], result["max_length"], result["unread_fields"]) == (1, 32, {"source": 1})
    said = capsys.readouterr().err
    assert f"2 vectors of 32 dimensions in {tmp_path / 'out.npy'}; " in said
    assert "1 text is longer than 32 tokens: only the beginning was read" in said
    assert "the model has the prompts query, passage, but none is used; --prompt NAME uses one" in said
    assert "source (1)" in said


def test_memory_does_not_depend_on_the_number_of_texts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[int] = []
    monkeypatch.setattr(embed_verb, "BATCH", 16)
    monkeypatch.setattr(embed_verb, "release_free_memory", lambda: released.append(tracemalloc.get_traced_memory()[0]))
    source = io.BytesIO(b"".join(b"the court shall decide number %d\n" % number for number in range(16 * 24)))
    tracemalloc.start()
    try:
        embed(asked(model, output=tmp_path / "out.npy"), stdin=source)
    finally:
        tracemalloc.stop()
    assert len(released) == 24
    assert released[-1] - released[7] < 50_000  # bytes, in 16 batches


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_adapt_embed_export(model: Path, tmp_path: Path, method: str) -> None:
    """A run is pooled like its base, also when all weights were trained and the base is gone."""
    base = Path(shutil.copytree(model, tmp_path / "base"))
    run = adapt(adapt_settings(tmp_path, model=str(base), method=method, output=tmp_path / "run")).folder
    if method == "full":
        shutil.rmtree(base)
    rows = records(5)
    texts = write_jsonl(tmp_path / "texts.jsonl", rows)
    result = embed(asked(run, input=str(texts), output=tmp_path / "run.npy", prompt="query"))
    assert (result["pooling"], result["normalised"], result["prompt"]) == ("mean", True, "query: ")
    vectors = np.load(tmp_path / "run.npy")
    assert np.abs(vectors - expected(model, rows, "query: ")).max() > 1e-4
    merged = export(ExportSettings(model=str(run), output=tmp_path / "merged", quiet=True))
    np.testing.assert_allclose(expected(merged, rows, "query: "), vectors, atol=1e-5)
