"""`predict`: a line for each text, in order, also after rejected records and interruptions."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from classify_jobs import records, settings, write_csv, write_jsonl
from safetensors.torch import load_file, save_file

from domain_ft.errors import ModelError, RecordError, SettingsError
from domain_ft.evaluation.predictions import Predictions
from domain_ft.verbs.classify.run import classify
from domain_ft.verbs.predict import run as predict_verb
from domain_ft.verbs.predict.run import predict
from domain_ft.verbs.predict.settings import PredictSettings


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `classify`."""
    return classify(settings(tmp_path_factory.mktemp("predict"))).folder


def asked(model: Path, **changes: Any) -> PredictSettings:
    return PredictSettings(**{"model": str(model), "input": "-", "dtype": "float32", "quiet": True, **changes})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_predictions_are_those_of_the_run_itself(finished: Path, tmp_path: Path) -> None:
    kept = Predictions.load(finished / "predictions" / "test-seed-0.npz")
    rows = {row["id"]: row for row in records(150)}
    texts = write_csv(tmp_path / "texts.csv", [rows[name] for name in kept.ids])
    result = predict(asked(finished, input=str(texts), id_field="id", output=tmp_path / "out.jsonl"))
    assert result["texts"] == len(kept)
    found = lines(tmp_path / "out.jsonl")
    assert [line["id"] for line in found] == list(kept.ids)
    assert [line["label"] for line in found] == [kept.labels.names[place] for place in kept.predicted()]
    for line, chances in zip(found, kept.probabilities(), strict=True):
        assert list(line["probabilities"].values()) == pytest.approx(chances.tolist(), abs=1e-4)
        assert sum(line["probabilities"].values()) == pytest.approx(1)


def test_calibration_lowers_the_probabilities_if_the_temperature_is_above_1(finished: Path, tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", records(6))
    kept = json.loads((finished / "task.json").read_text())
    sure = {}
    for calibrate in (True, False):
        output = tmp_path / f"{calibrate}.jsonl"
        predict(asked(finished, input=str(texts), output=output, calibrate=calibrate))
        sure[calibrate] = sum(max(line["probabilities"].values()) for line in lines(output))
    assert (sure[True] < sure[False]) == (kept["temperature"] > 1)


def test_standard_input_and_output(finished: Path) -> None:
    text = b"the court shall decide\n\xe3\x83\xa9\xe3\x82\xa4\xe3\x82\xbb\xe3\x83\xb3\xe3\x82\xb9\n"
    out = io.StringIO()
    predict(asked(finished), stdin=io.BytesIO(text), stdout=out)
    assert len([json.loads(line) for line in out.getvalue().splitlines()]) == 2


def test_batches_make_no_difference(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", records(20))
    predict(asked(finished, input=str(texts), output=tmp_path / "whole.jsonl"))
    monkeypatch.setattr(predict_verb, "BATCH", 3)
    predict(asked(finished, input=str(texts), output=tmp_path / "cut.jsonl"))
    for one, other in zip(lines(tmp_path / "whole.jsonl"), lines(tmp_path / "cut.jsonl"), strict=True):
        assert one["id"] == other["id"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_bad_records_are_rejected_with_reasons(finished: Path, tmp_path: Path) -> None:
    good = [json.dumps(row) for row in records(4)]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join([good[0], '{"text": ', good[1], '{"text": ""}', *good[2:]]) + "\n", encoding="utf-8")
    result = predict(asked(finished, input=str(texts), output=tmp_path / "out.jsonl"))
    assert (result["texts"], result["rejected"]) == (4, 2)
    assert [reject["line"] for reject in lines(tmp_path / "out.jsonl.rejects.jsonl")] == [2, 4]
    with pytest.raises(RecordError, match="line 2"):
        predict(asked(finished, input=str(texts)), stdout=io.StringIO())


def test_an_interrupted_call_is_continued(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [json.dumps(row) for row in records(12)]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join([*rows[:3], "broken", *rows[3:]]) + "\n", encoding="utf-8")
    monkeypatch.setattr(predict_verb, "BATCH", 5)
    predict(asked(finished, input=str(texts), output=tmp_path / "whole.jsonl"))
    whole = (tmp_path / "whole.jsonl").read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 3, len(whole)):
        output = tmp_path / f"cut-{cut}.jsonl"
        output.write_bytes(whole[:cut])
        shutil.copy(tmp_path / "whole.jsonl.state.jsonl", tmp_path / f"{output.name}.state.jsonl")
        result = predict(asked(finished, input=str(texts), output=output, resume=True))
        assert [line["id"] for line in lines(output)] == [line["id"] for line in lines(tmp_path / "whole.jsonl")]
        assert (result["texts"], result["rejected"]) == (12, 1)
        assert result["done_before"] == whole[:cut].count(b"\n")
        assert len(lines(tmp_path / f"{output.name}.rejects.jsonl")) == 1


def test_answers_of_another_model_or_other_options_are_not_added(finished: Path, tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", records(6))
    output = tmp_path / "out.jsonl"
    predict(asked(finished, input=str(texts), output=output))
    output.write_bytes(output.read_bytes()[:-30])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    def refused(model: Path, said: str, **changes: Any) -> None:
        with pytest.raises(SettingsError, match=said):
            predict(asked(model, **{"input": str(texts), "output": output, "resume": True, **changes}))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before

    refused(finished, "it was started with --calibrate, this call has --no-calibrate", calibrate=False)
    refused(finished, "no --text-field, this call has --text-field text", text_field="text")
    changed = tmp_path / "run"
    shutil.copytree(finished, changed)
    facts = json.loads((changed / "task.json").read_text())
    (changed / "task.json").write_text(json.dumps({**facts, "temperature": 9.0}))
    refused(changed, "its answers are from another model")
    shutil.rmtree(changed)
    moved = Path(shutil.copytree(finished, tmp_path / "moved"))
    (weights,) = moved.glob("[am]*/*.safetensors")  # of the adapter or the model
    tensors = load_file(weights)
    tensors[min(tensors)] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    refused(moved, "its answers are from another model")
    shutil.copy(finished / weights.relative_to(moved), weights)
    result = predict(asked(moved, input=str(texts), output=output, resume=True))  # the same model in another place
    assert (result["done_before"], result["texts"]) == (5, 6)


def test_calls_that_do_not_fit_are_refused(finished: Path, tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", records(6))
    output = tmp_path / "out.jsonl"
    predict(asked(finished, input=str(texts), output=output))
    with pytest.raises(SettingsError, match="exists already"):
        predict(asked(finished, input=str(texts), output=output))
    other = write_jsonl(tmp_path / "others.jsonl", records(9, seed=5))
    with pytest.raises(SettingsError, match="but --input has something else there"):
        predict(asked(finished, input=str(other), output=output, resume=True))
    with pytest.raises(SettingsError, match="cannot both go to standard output"):
        predict(asked(finished, json=True))
    with pytest.raises(SettingsError, match="no such file"):
        predict(asked(finished, input="nowhere.jsonl"))
    with pytest.raises(ModelError, match="not the folder of a finished run"):
        predict(asked(tmp_path, input=str(texts)))


def predicted(model: Path, rows: list[dict[str, Any]], **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result, and the lines, of records on standard input."""
    text = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    out = io.StringIO()
    result = predict(asked(model, **changes), stdin=io.BufferedReader(io.BytesIO(text)), stdout=out)  # type: ignore[arg-type]
    return result, [json.loads(line) for line in out.getvalue().splitlines()]


def test_ids_are_kept_as_they_are_given(finished: Path, tmp_path: Path) -> None:
    text = "the court shall decide"
    for field in ("id", "ID", "doc_id", "uid"):
        _, found = predicted(finished, [{field: key, "text": text} for key in (7, "7", " a ", 1.5)])
        assert [line["id"] for line in found] == [7, "7", " a ", 1.5]
    _, found = predicted(finished, [{"id": None, "text": text}, {"text": text}, {"id": [1], "text": text}])
    assert [line["id"] for line in found] == [f"standard input:{number}" for number in (1, 2, 3)]
    _, found = predicted(finished, [{"id": 7, "name": "a", "text": text}], id_field="name")
    assert [line["id"] for line in found] == ["a"]
    with pytest.raises(RecordError, match="the field is missing"):
        predicted(finished, [{"id": 7, "text": text}], id_field="name")
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"id": number, "text": text} for number in range(4)])
    output = tmp_path / "out.jsonl"
    predict(asked(finished, input=str(texts), output=output))
    whole = output.read_bytes()
    output.write_bytes(whole[: len(whole) // 2])
    predict(asked(finished, input=str(texts), output=output, resume=True))
    assert [line["id"] for line in lines(output)] == [0, 1, 2, 3]


def test_fields_that_are_not_read_are_counted_and_reported(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"id": 1, "text": "the court", "source": "x", "label": "ruling"}
    result, _ = predicted(finished, [row, {**row, "note": ""}, {"text": "bones", "source": "y"}])
    assert result["unread_fields"] == {"source": 3, "label": 2}
    table = write_csv(tmp_path / "texts.csv", [row, row])
    result = predict_verb.run(asked(finished, input=str(table), output=tmp_path / "out", quiet=False))
    assert result["unread_fields"] == {"source": 2, "label": 2}
    assert "source (2), label (2)" in capsys.readouterr().err


def test_rejects_are_counted_and_reported(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text('id,text\n1,the court\n2,"an unclosed quotation\n3,bones\n', encoding="utf-8")
    listed = tmp_path / "left.jsonl"
    result = predict_verb.run(asked(finished, input=str(texts), output=tmp_path / "out", rejects=listed, quiet=False))
    assert result["texts"] == 2  # the record behind the open quotation is read
    assert result["rejected"] == len(lines(listed)) == 1
    assert result["rejects"] == str(listed)
    assert f"left out; {listed} says which and why" in capsys.readouterr().err


def test_a_text_field_that_is_named_is_the_one_that_is_read(finished: Path) -> None:
    rows = [{"text": "the court", "body": "bones"}]
    with pytest.raises(RecordError, match="bdoy"):
        predicted(finished, rows, text_field="bdoy")
    assert predicted(finished, rows, text_field="body")[0]["unread_fields"] == {"text": 1}


def test_memory_does_not_depend_on_the_number_of_texts(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python holds as much after many batches as after few, and free memory is released after each batch.

    Batches differ in size, so without the release the C library's heap would fragment and grow.
    """
    released: list[int] = []
    monkeypatch.setattr(predict_verb, "BATCH", 16)
    monkeypatch.setattr(
        predict_verb, "release_free_memory", lambda: released.append(tracemalloc.get_traced_memory()[0])
    )

    class Nowhere(io.StringIO):
        def write(self, text: str) -> int:
            return len(text)

    source = io.BytesIO(b"".join(b"the court shall decide number %d\n" % number for number in range(16 * 24)))
    tracemalloc.start()
    try:
        predict(asked(finished), stdin=source, stdout=Nowhere())
    finally:
        tracemalloc.stop()
    assert len(released) == 24
    assert released[-1] - released[7] < 50_000  # bytes, in 16 batches


def test_a_named_pipe_is_predicted(finished: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b'{"id": 3, "text": "the court"}\n',))
    writer.start()
    out = io.StringIO()
    predict(asked(finished, input=str(pipe)), stdout=out)
    writer.join()
    assert json.loads(out.getvalue())["id"] == 3


def test_two_options_for_one_file_are_refused_and_nothing_is_written(finished: Path, tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", records(3))
    before = texts.read_bytes()
    for changes in (
        {"rejects": texts},
        {"output": texts, "resume": True},
        {"output": tmp_path / "o", "rejects": texts},
    ):
        with pytest.raises(SettingsError, match="are the same file"):
            predict(asked(finished, input=str(texts), **changes), stdout=io.StringIO())
    assert texts.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]
