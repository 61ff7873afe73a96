"""The files that `predict` and `generate` read and write: no file of the user is lost, whatever the options name."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.readers.base import Reject
from domain_ft.errors import SettingsError
from domain_ft.verbs.shared.stream_state import Identity, state_path
from domain_ft.verbs.shared.streams import Output, check_streams, open_output, open_rejects, pass_over

FORMS = (frozenset({"id", "label"}),)


@dataclass(frozen=True)
class Options:
    input: str | None = "-"
    output: Path | None = None
    rejects: Path | None = None
    resume: bool = False
    json: bool = False


@dataclass(frozen=True)
class Item:
    key: str | int
    text: str = "text"

    @property
    def read(self) -> tuple[str, ...]:
        return (self.text,)


def line(key: str | int) -> str:
    return json.dumps({"id": key, "label": "x"}) + "\n"


MADE_BY = Identity("predict", "run", ("sha256:1",), {"--calibrate": True, "--text-field": None})


def made_by() -> Identity:
    return MADE_BY


def call(
    options: Options,
    keys: tuple[str | int, ...] = ("a", "b", "c"),
    bad: int = 0,
    text: str = "text",
    identity: Identity = MADE_BY,
) -> LeftOut:
    """Do what a verb does: check the streams, open them, pass over finished items, and write the others."""
    left_out = LeftOut()
    check_streams(options, "answers", io.BytesIO())
    with (
        open_rejects(options, left_out) as rejects,
        open_output(options, io.StringIO(), FORMS, lambda: identity) as output,
    ):

        def items() -> Iterator[Item]:
            for number in range(bad):
                assert rejects is not None
                rejects.add(Reject("in", number, None, "broken"))
            yield from (Item(key, text) for key in keys)

        left = items()
        pass_over(left, output, rejects, options)
        for item in left:
            output.write([{"id": item.key, "label": "x"}], [item])
    return left_out


def state(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spellings(file: Path, folder: Path) -> list[Path]:
    """Other names of a file."""
    soft, hard = folder / "soft", folder / "hard"
    soft.symlink_to(file)
    os.link(file, hard)
    return [file, folder / ".." / folder.name / file.name, soft, hard]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("option", ["output", "rejects"])
def test_the_input_is_never_written_to(tmp_path: Path, option: str, resume: bool) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(line("a") + line("b"))
    others = {"output": tmp_path / "out.jsonl"} if option == "rejects" else {}
    for name in spellings(source, tmp_path):
        before = state(tmp_path)
        with pytest.raises(SettingsError, match="are the same file"):
            call(Options(str(source), resume=resume, **{**others, option: name}))
        assert state(tmp_path) == before


def test_standard_input_that_is_a_file_is_never_written_to(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(line("a"))
    with source.open("rb") as stdin, pytest.raises(SettingsError, match="are the same file"):
        check_streams(Options("-", output=source, resume=True), "answers", stdin)
    assert source.read_text() == line("a")


def test_output_and_rejects_are_two_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="are the same file"):
        call(Options(output=tmp_path / "x", rejects=tmp_path / "." / "x"))
    source = tmp_path / "out.rejects.jsonl"  # where the rejects of --output out go
    source.write_text("mine")
    with pytest.raises(SettingsError, match="are the same file"):
        call(Options(str(source), output=tmp_path / "out"))
    assert state(tmp_path) == {str(source): b"mine"}


FOREIGN = {
    "text": "A letter to my lawyer, without an end of line",
    "lines": "one\ntwo\n",
    "records": '{"id": "a", "text": "mine"}\n',
    "more fields": '{"id": "a", "label": "x", "note": "mine"}\n',
    "cut record": line("a") + '{"text": "mi',
    "list": "[1, 2]\n",
    "bytes": "\0\1\2",
    "blank": "\n\n",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_file_that_is_not_ours_is_not_continued(tmp_path: Path, content: str) -> None:
    for options in (
        Options(output=tmp_path / "x", resume=True),
        Options(output=tmp_path / "x"),
        Options(output=tmp_path / "new", rejects=tmp_path / "x"),
        Options(output=tmp_path / "new", rejects=tmp_path / "x", resume=True),
        Options(rejects=tmp_path / "x"),
    ):
        (tmp_path / "x").write_text(content)
        with pytest.raises(SettingsError, match="nothing was changed"):
            call(options, bad=1)
        assert state(tmp_path) == {str(tmp_path / "x"): content.encode()}
    (tmp_path / "x").rename(tmp_path / "new.rejects.jsonl")  # under the default name, too
    with pytest.raises(SettingsError, match="is not a list of rejects"):
        call(Options(output=tmp_path / "new"), bad=1)
    assert state(tmp_path) == {str(tmp_path / "new.rejects.jsonl"): content.encode()}


def test_another_input_changes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out"
    call(Options(output=output))
    output.write_text(line("a") + line("b") + line("c")[:9])
    listed = tmp_path / "out.rejects.jsonl"
    listed.write_text('{"file": "in", "line": 1, "field": null, "reason": "broken"}\n')
    before = state(tmp_path)
    for keys in (("a", "x", "c"), ("a",), ("b", "b", "c")):  # every line is compared
        with pytest.raises(SettingsError, match="but --input has something else there"):
            call(Options(output=output, resume=True), keys, bad=2)
        assert state(tmp_path) == before
    assert call(Options(output=output, resume=True), bad=2).records == 2
    assert output.read_text() == line("a") + line("b") + line("c")
    assert len(listed.read_text().splitlines()) == 2


def test_ids_are_compared_as_they_are(tmp_path: Path) -> None:
    output = tmp_path / "out"
    call(Options(output=output), (1,))
    with pytest.raises(SettingsError, match="but --input has something else there"):
        call(Options(output=output, resume=True), ("1", "2"))
    call(Options(output=output, resume=True), (1, 2))
    assert output.read_text() == line(1) + line(2)


CHANGED = {
    "model": (replace(MADE_BY, models=("sha256:2",)), "the files of that model have changed"),
    "other model": (replace(MADE_BY, model="other", models=("sha256:2",)), "its answers are from another model: 'run'"),
    "option": (
        replace(MADE_BY, options={"--calibrate": False, "--text-field": "body"}),
        "started with --calibrate, this call has --no-calibrate; it was started with no --text-field, this call has "
        "--text-field body",
    ),
    "verb": (replace(MADE_BY, command="generate"), "`predict` wrote it, not `generate`"),
}


@pytest.mark.parametrize(("identity", "said"), CHANGED.values(), ids=CHANGED.keys())
def test_answers_of_another_model_or_other_options_are_not_mixed(tmp_path: Path, identity: Identity, said: str) -> None:
    output = tmp_path / "out"
    call(Options(output=output), ("a", "b"))
    before = state(tmp_path)
    with pytest.raises(SettingsError, match=re.escape(said)):
        call(Options(output=output, resume=True), identity=identity)
    assert state(tmp_path) == before
    call(Options(output=output, resume=True), identity=replace(MADE_BY, model="moved"))  # the same one elsewhere
    assert output.read_text() == line("a") + line("b") + line("c")


def test_other_texts_under_the_same_ids_are_not_mixed(tmp_path: Path) -> None:
    output = tmp_path / "out"
    call(Options(output=output), ("a", "b"))
    before = state(tmp_path)
    with pytest.raises(SettingsError, match=r"line 1 of .* whose text in --input has changed"):
        call(Options(output=output, resume=True), text="other")
    assert state(tmp_path) == before


def test_an_output_without_its_state_is_not_continued(tmp_path: Path) -> None:
    output = tmp_path / "out"
    call(Options(output=output), ("a", "b"))
    whole = state_path(output).read_bytes()
    for content in (None, b"", b"{}\n", b"[" * 100_000, whole[:20], whole[:-9], b"\xff" + whole):
        state_path(output).unlink(missing_ok=True)
        if content is not None:
            state_path(output).write_bytes(content)
        before = state(tmp_path)
        with pytest.raises(SettingsError, match="nothing was changed"):
            call(Options(output=output, resume=True))
        assert state(tmp_path) == before


def test_a_state_of_ours_is_replaced_with_its_output_and_no_other_file_is(tmp_path: Path) -> None:
    output = tmp_path / "out"
    call(Options(output=output), ("a", "b", "c", "d"))
    output.unlink()
    call(Options(output=output), ("e",))
    assert len(state_path(output).read_text().splitlines()) == 2
    output.unlink()
    state_path(output).write_text("a letter")
    for resume in (False, True):
        with pytest.raises(SettingsError, match="is not the state file of an output"):
            call(Options(output=output, resume=resume))
    assert state(tmp_path) == {str(state_path(output)): b"a letter"}
    with pytest.raises(SettingsError, match="are the same file"):
        call(Options(str(state_path(output)), output=output))


def test_a_call_that_was_killed_in_a_batch_is_continued(tmp_path: Path) -> None:
    output = tmp_path / "out"
    call(Options(output=output))
    whole = output.read_bytes()
    for cut in (0, 9, len(whole) // 2, len(whole) - 1):
        output.write_bytes(whole[:cut])  # the state has the whole batch
        call(Options(output=output, resume=True))
        assert output.read_bytes() == whole
        assert len(state_path(output).read_text().splitlines()) == 4


def test_a_list_of_rejects_of_ours_is_replaced_with_its_output(tmp_path: Path) -> None:
    call(Options(output=tmp_path / "out"), bad=3)
    listed = tmp_path / "out.rejects.jsonl"
    assert len(listed.read_text().splitlines()) == 3
    (tmp_path / "out").unlink()
    call(Options(output=tmp_path / "out"), bad=1)
    assert len(listed.read_text().splitlines()) == 1
    call(Options(output=tmp_path / "out", resume=True))
    assert not listed.exists()
    named = tmp_path / "named"
    call(Options(output=tmp_path / "other", rejects=named), bad=2)
    with pytest.raises(SettingsError, match=r"--rejects .* exists already"):
        call(Options(output=tmp_path / "third", rejects=named), bad=2)
    call(Options(output=tmp_path / "other", rejects=named, resume=True), bad=2)
    assert len(named.read_text().splitlines()) == 2


def test_a_second_call_on_an_output_is_refused(tmp_path: Path) -> None:
    options = Options(output=tmp_path / "out", resume=True)
    call(Options(output=tmp_path / "out"), ("a",))
    with open_output(options, io.StringIO(), FORMS, made_by) as first:
        with (
            pytest.raises(SettingsError, match="another call is writing it"),
            open_output(options, io.StringIO(), FORMS, made_by),
        ):
            pass
        pass_over(iter([Item("a")]), first, None, options)
        first.write([{"id": "b", "label": "x"}], [Item("b")])
    assert (tmp_path / "out").read_text() == line("a") + line("b")


def test_a_call_that_fails_before_its_first_line_leaves_no_file(tmp_path: Path) -> None:
    options = Options(output=tmp_path / "out")
    with pytest.raises(RuntimeError), open_output(options, io.StringIO(), FORMS, made_by) as output:
        output.begin()
        raise RuntimeError
    assert state(tmp_path) == {}
    with pytest.raises(RuntimeError), open_output(options, io.StringIO(), FORMS, made_by) as output:
        pass_over(iter([]), output, None, options)
        output.write([{"id": "a", "label": "x"}], [Item("a")])
        raise RuntimeError
    assert (tmp_path / "out").read_text() == line("a")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input": "."}, "is a folder, not a file"),
        ({"input": "nowhere"}, "there is no such file"),
        ({"output": Path()}, "is a folder"),
        ({"output": Path("file/out")}, "is a file, not a folder"),
        ({"rejects": Path("file/out")}, "is a file, not a folder"),
        ({"output": Path("o"), "rejects": Path()}, "is a folder"),
    ],
)
def test_paths_that_cannot_be_read_or_written_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("kept")
    for resume in (False, True) if "output" in changes else (False,):
        with pytest.raises(SettingsError, match=said):
            call(Options(**changes, resume=resume))
    assert state(tmp_path) == {str(tmp_path / "file"): b"kept"}


def test_a_lone_surrogate_is_written_as_an_escape() -> None:
    out = io.StringIO()
    Output(out).write([{"id": "\ud800", "text": "日本"}], [Item("\ud800")])
    assert out.getvalue() == '{"id": "\\ud800", "text": "\\u65e5\\u672c"}\n'


def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    from domain_ft.corpus.readers.base import BadRecords
    from domain_ft.corpus.tasks.fields import FieldNames
    from domain_ft.corpus.tasks.reading import iterate_inputs

    for name, content, found in (
        ("pipe", b'{"text": "one", "id": 7}\n', [(7, "one")]),
        ("lines", b"one\ntwo\n", [("lines:1", "one"), ("lines:2", "two")]),
        ("table.csv", b"id,text\n7,one\n", [("7", "one")]),
    ):
        pipe = tmp_path / name
        os.mkfifo(pipe)
        check_streams(Options(str(pipe)), "answers")
        writer = threading.Thread(target=pipe.write_bytes, args=(content,))
        writer.start()
        texts = list(iterate_inputs(pipe, FieldNames(), None, BadRecords("stop", print)))
        writer.join()
        assert [
            (text.key if isinstance(text.key, int) else str(text.key).split("/")[-1], text.text) for text in texts
        ] == found


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("option", ["output", "rejects"])
@pytest.mark.parametrize(("kind", "what"), [("null", "a device"), ("fifo", "a pipe"), ("socket", "a socket")])
def test_the_message_about_a_special_file_does_not_advise_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, what: str, option: str, resume: bool
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may not be long
    name = Path("special")
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "null":
            name = Path("/dev/null")
        elif kind == "fifo":
            os.mkfifo(name)
        else:
            listener.bind(str(name))
        others = {"output": Path("out.jsonl")} if option == "rejects" else {}
        with pytest.raises(SettingsError, match=f"--{option} {name} is {what}") as raised:
            call(Options(resume=resume, **{**others, option: name}))
    assert "remove" not in str(raised.value)
    assert (f"> {name}" in str(raised.value)) == (option == "output")
