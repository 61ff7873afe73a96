"""Unread files of a folder are listed with the reason, and a pipe is never waited for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.left_out import UnreadFile, fields_read, sentences
from domain_ft.corpus.prepared import prepare
from domain_ft.corpus.readers import files
from domain_ft.corpus.readers.files import check_file, list_files
from domain_ft.corpus.tasks.opening import open_task
from domain_ft.corpus.tasks.sources import TaskSource
from domain_ft.errors import CorpusError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path / "cache"))


def odd_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Fill a folder with everything that is not read. Returns the reason for each item."""
    (folder / ".git").mkdir(parents=True)
    for name in (".git/config", ".hidden.txt", "a.ann", "noending", "closed.txt"):
        (folder / name).write_text("x", encoding="utf-8")
    os.mkfifo(folder / "pipe.txt")
    (folder / "dead.txt").symlink_to("nowhere")
    (folder / "more").mkdir()
    (folder / "link").symlink_to("more")
    monkeypatch.chdir(folder)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind("socket.txt")
    allowed = os.access
    monkeypatch.setattr(files.os, "access", lambda path, mode: "closed" not in str(path) and allowed(path, mode))
    return {
        ".git/": "a hidden folder",
        ".hidden.txt": "hidden",
        "a.ann": "the ending .ann is not read",
        "closed.txt": "cannot be read: permission denied",
        "dead.txt": "a broken symbolic link",
        "link/": "a link to a folder",
        "noending": "the name has no ending",
        "pipe.txt": "a named pipe (FIFO)",
        "socket.txt": "a socket",
    }


def test_everything_that_is_not_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "texts"
    wanted = odd_folder(folder, monkeypatch)
    (folder / "more" / "a.txt").write_text("One text of some words.", encoding="utf-8")
    listing = list_files(folder)
    assert [name for _, name in listing.files] == ["more/a.txt"]
    assert {one.file: one.reason for one in listing.unread} == wanted


@pytest.mark.parametrize("name", ["pipe.txt", "dead.txt", "socket.txt", "closed.txt", "more"])
def test_what_cannot_be_read_is_refused_without_opening_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    wanted = odd_folder(tmp_path / "texts", monkeypatch)
    with pytest.raises(CorpusError) as caught:
        check_file(tmp_path / "texts" / name)
    assert wanted.get(name, "a folder") in str(caught.value)
    if name != "more":
        with pytest.raises(CorpusError):
            open_corpus(str(tmp_path / "texts" / name))


def test_the_error_for_a_folder_with_nothing_to_read_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.ann").write_text("x", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"a\.ann \(the ending \.ann is not read\)") as caught:
        open_corpus(str(tmp_path))
    assert "supported endings: .txt" in str(caught.value)


def test_with_a_named_reader_the_fix_does_not_mention_endings(tmp_path: Path) -> None:
    (tmp_path / ".a.txt").write_text("x", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"\.a\.txt \(hidden\)") as caught:
        list_files(tmp_path, "text")
    assert caught.value.fix == "put files into it, or name another folder"


def test_the_fix_depends_on_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed.txt").write_text("x", encoding="utf-8")
    (tmp_path / "round.txt").symlink_to("round.txt")
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    for name, reason, fix in (
        ("closed.txt", "permission denied", "give yourself the right to read it"),
        ("closed.txt/a.txt", "Not a directory", "check the path"),
        ("round.txt", "Too many levels of symbolic links", "check the path"),
        ("a" * 300, "File name too long", "check the path"),
    ):
        for check in (check_file, list_files):
            with pytest.raises(CorpusError, match=f"this cannot be read: {reason}") as caught:
                check(tmp_path / name)
            assert caught.value.fix == fix


def test_a_file_in_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(CorpusError, match="this cannot be read: permission denied") as caught:
        list_files(tmp_path / "a.txt")
    assert caught.value.fix == "give yourself the right to read it"


def test_a_prepared_corpus_lists_unread_files_also_those_added_later(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(12):
        words = " ".join(f"word{number}x{place}" for place in range(120))
        (folder / f"{number}.txt").write_text(words, encoding="utf-8")
    (folder / "a.ann").write_text("x", encoding="utf-8")
    first = prepare(open_corpus(str(folder)))
    assert first.statistics.left_out["unread_files"]["count"] == 1
    (folder / "b.ann").write_text("x", encoding="utf-8")
    second = prepare(open_corpus(str(folder)))
    assert second.key == first.key  # what is read is the same
    (sentence,) = sentences(second.statistics.left_out)
    assert sentence.startswith("2 items were not read: a.ann (the ending .ann is not read), b.ann")


def test_a_prepared_corpus_knows_its_rejects_and_fields(tmp_path: Path) -> None:
    lines = [f'{{"id": {n}, "body": "{" ".join(f"word{n}x{place}" for place in range(60))}"}}\n' for n in range(12)]
    (tmp_path / "a.jsonl").write_text("".join([*lines, "broken\n", '{"body": "  "}\n']), encoding="utf-8")
    ready = prepare(open_corpus(str(tmp_path / "a.jsonl"), on_bad_record="skip"))
    assert ready.statistics.left_out["rejected"] == 2
    assert ready.rejects_path is not None
    assert len(ready.rejects_path.read_text(encoding="utf-8").splitlines()) == 2
    assert ready.statistics.unread_fields == {"id": 12}
    (sentence,) = fields_read(ready.statistics.text_fields)
    assert sentence.startswith("the text is read from the field 'body', found automatically: 13 records, a median of ")


def test_files_in_class_folders_that_are_no_examples_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "classes"
    for label in ("good", "bad"):
        for number in range(8):
            place = folder / label / f"{number}.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            words = " ".join(f"{label}{number}x{word}" for word in range(20))
            place.write_text(words, encoding="utf-8")
    (folder / "good" / "page.html").write_text("<p>An example in a page of HTML.</p>", encoding="utf-8")
    (folder / "bad" / "records.csv").write_text("text\nx\n", encoding="utf-8")
    (folder / "bad" / "a.ann").write_text("x", encoding="utf-8")
    (folder / "README.md").write_text("About.", encoding="utf-8")
    os.mkfifo(folder / "good" / "pipe.txt")
    data = open_task(TaskSource(train=str(folder)))
    assert sum(data.facts["examples"].values()) == 17
    assert {one.file: one.reason for one in data.left_out.files} == {
        "README.md": "not in a folder of a class",
        "bad/a.ann": "the ending .ann is not read",
        "bad/records.csv": "a file of records, but each file must be one example",
        "good/pipe.txt": "a named pipe (FIFO)",
    }


def test_the_error_for_a_single_text_says_that_the_others_are_copies(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "The same words."}\n' * 29, encoding="utf-8")
    with pytest.raises(CorpusError, match="the other 28 of the 29 documents are copies"):
        prepare(open_corpus(str(tmp_path / "a.jsonl")))


def test_one_unread_folder_is_one_sentence() -> None:
    unread = {"count": 1, "files": [vars(UnreadFile(".git/", "a hidden folder"))]}
    assert sentences({"unread_files": unread}) == ["1 item was not read: .git/ (a hidden folder)"]
