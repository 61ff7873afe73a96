"""The checks of a single text: its encoding, language, ending and private data."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.corpus.checks.encoding import encoding_faults, fix_encoding, without_surrogates
from domain_ft.corpus.checks.endings import Endings, ends_whole
from domain_ft.corpus.checks.languages import Languages, languages_of
from domain_ft.corpus.checks.private import PrivateData, masked, redact
from domain_ft.corpus.checks.statistics import distribution
from domain_ft.errors import CorpusError

SOUND = [
    "A naïve café owner in São Paulo — “déjà vu”, 20 °C, 5 µm, ½ l, £9, €5, ±3 %.",
    "Der Bäcker grüßt: Öl, Äpfel und Übermut kosten 3 €.",
    "日本国民は、正当に選挙された国会における代表者を通じて行動し、平和を愛する。",
    "中华人民共和国公民在法律面前一律平等，国家尊重和保障人权。",
    "모든 국민은 인간으로서의 존엄과 가치를 가지며, 행복을 추구할 권리를 가진다.",
    "Все граждане равны перед законом и имеют право на равную защиту.",
    "كل الناس متساوون أمام القانون ولهم الحق في التمتع بحماية متكافئة.",
    "प्रत्येक व्यक्ति को जीवन, स्वतंत्रता और सुरक्षा का अधिकार है।",
    "👩‍⚕️🙂 ¯\\_(ツ)_/¯ ½ → ≤ ∑ √2 ¿Qué? ½",
]


def misread() -> list[tuple[str, str]]:
    """Each sound text, and what it becomes in each wrong encoding that can decode its UTF-8 bytes."""
    pairs = []
    for encoding in ("latin-1", "cp1252", "cp1251", "cp932", "gb18030", "cp949"):
        for text in SOUND:
            with contextlib.suppress(UnicodeDecodeError):
                pairs.append((text, text.encode("utf-8").decode(encoding)))
    return pairs


class TestEncoding:
    @pytest.mark.parametrize(("text", "spoiled"), misread())
    def test_text_read_in_a_wrong_encoding_is_found_and_fixed(self, text: str, spoiled: str) -> None:
        assert [kind for kind, _ in encoding_faults(f"The note says:\n{spoiled}\nand ends.")] == ["mojibake"]
        assert fix_encoding(spoiled) == text

    @pytest.mark.parametrize("text", SOUND)
    def test_sound_text_is_left_as_it_is(self, text: str) -> None:
        assert list(encoding_faults(text)) == []
        assert fix_encoding(text) == text

    def test_lost_characters_are_found_but_not_guessed(self) -> None:
        assert [kind for kind, _ in encoding_faults("a r\ufffdsum\ufffd")] == ["mojibake"]
        assert fix_encoding("a r\ufffdsum\ufffd") == "a r\ufffdsum\ufffd"

    def test_a_message_shows_the_place_and_not_the_text(self) -> None:
        ((_, message),) = encoding_faults(f"{'secret words ' * 9}cafÃ©{' secret words' * 9}")
        assert "'Ã©' should be 'é'" in message
        assert "secret" not in message

    @given(st.text(st.characters(codec=None)))
    def test_any_text_can_be_written_after_the_repair(self, text: str) -> None:
        list(encoding_faults(text))
        fix_encoding(text).encode("utf-8")
        without_surrogates(text).encode("utf-8")


class TestLanguages:
    @pytest.mark.parametrize(
        ("language", "text"),
        [
            ("en", "Everyone has the right to life, liberty and security of person, without distinction of any kind."),
            ("fr", "Tout individu a droit à la vie, à la liberté et à la sûreté de sa personne, sans distinction."),
            ("de", "Jeder hat das Recht auf Leben, Freiheit und Sicherheit der Person, ohne irgendeinen Unterschied."),
            ("ru", "Каждый человек имеет право на жизнь, на свободу и на личную неприкосновенность без различия."),
            ("ja", "すべて人は、生命、自由及び身体の安全に対する権利を有する。"),
            ("zh", "人人有权享有生命、自由和人身安全，不分种族、性别和语言。"),
            ("ko", "모든 사람은 생명과 신체의 자유와 안전에 대한 권리를 가진다."),
            ("th", "บุคคลมีสิทธิในการดำรงชีวิต ในเสรีภาพและความมั่นคงแห่งร่างกาย"),
            ("el", "Κάθε άτομο έχει δικαίωμα στη ζωή, την ελευθερία και την προσωπική του ασφάλεια."),
        ],
    )
    def test_each_language_is_recognised(self, language: str, text: str) -> None:
        assert languages_of(text)[0] == language

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "api_key: 9f8e7d6c5b4a3f2e1d0c and token ghp_abcdefghijklmnop",
            "OK.",
            "12 345 678",
            "Yes, of course.",
            "法律",
            "🙂 🙂 🙂",
        ],
    )
    def test_short_texts_are_not_judged(self, text: str) -> None:
        assert languages_of(text) == ()

    def test_texts_in_another_language_than_most_are_found(self) -> None:
        languages = Languages()
        english = "Everyone has the right to life, liberty and security of person, in every country of the world."
        for line in range(1, 12):
            languages.add(line, "text", english)
        languages.add(12, "text", "すべて人は、生命、自由及び身体の安全に対する権利を有する。")
        assert [(finding.line, finding.kind) for finding in languages.findings()] == [(12, "wrong-language")]
        assert languages.counts == {"en": 11, "ja": 1}

    def test_a_finding_on_plain_text_has_no_field(self) -> None:
        languages = Languages(["ja"])
        languages.add(1, "", "Everyone has the right to life, liberty and security of person, in every country.")
        assert [finding.field for finding in languages.findings()] == [None]

    def test_no_language_of_a_mixed_file_is_wrong_unless_some_are_named(self) -> None:
        def found(*allowed: str) -> list[int | None]:
            languages = Languages(allowed)
            for line, text in enumerate(SOUND[2:7], 1):
                languages.add(line, "text", text * 3)
            return [finding.line for finding in languages.findings()]

        assert found() == []
        assert found("ja", "zh") == [3, 4, 5]
        with pytest.raises(CorpusError, match="english"):
            Languages(["English"])


class TestEndings:
    @pytest.mark.parametrize(
        "text",
        [
            "It is.",
            "Is it?",
            "He said “no.”",
            "これは法律です。",
            "（終わり。）",
            "यह है।",
            "هل هذا صحيح؟",
            "Good! 🙂",
            "*It is.*",
        ],
    )
    def test_a_text_that_ends_whole(self, text: str) -> None:
        assert ends_whole(text)

    @pytest.mark.parametrize("text", ["It is", "It is,", "これは法律で", "(see", "यह", "and the (other)"])
    def test_a_text_that_does_not_end_whole(self, text: str) -> None:
        assert not ends_whole(text)

    def test_only_endings_that_are_unusual_for_their_script_are_found(self) -> None:
        endings = Endings()
        for line in range(1, 41):
            endings.add(line, "a", f"A whole sentence of case {line} that ends as one should.")
            endings.add(100 + line, "a", "นี่คือคำตอบที่ยาวพอสำหรับการตรวจสอบและไม่มีเครื่องหมายจบประโยค")
        endings.add(41, "a", "This one has a sentence. But then the second one is cut off in the mid")
        endings.add(42, "a", "これは法律に関する長い答えですが、途中で切れて")  # the only one of its script
        endings.add(43, "a", "The forms are the following, and all of them are free:\n- the first\n- the second")
        endings.add(44, "a", "More of it is written in https://example.org/a/very/long/address/of/a/page")
        endings.add(45, "a", "Paris")
        endings.add(48, "a", "Ask whoever is on duty, or write to help@example.org")
        endings.add(46, "a", "This one is whole. And then comes who wrote it. National Institute of Child Health")
        endings.add(47, "a", "What it may be:\nan infection of the ear\na fracture of the skull that heals by itself")
        assert [finding.line for finding in endings.findings()] == [41]

    def test_if_half_of_the_answers_have_no_full_stop_none_is_missed(self) -> None:
        endings = Endings()
        for line in range(30):
            endings.add(line, "a", "a heading of some forty characters that has no full stop" + "." * (line % 2))
        assert list(endings.findings()) == []


class TestPrivate:
    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("personal-email", "jane.doe+x@mail.example.co.uk"),
            ("personal-phone", "+44 20 7946 0018"),
            ("personal-phone", "+1-415-555-2671"),
            ("personal-phone", "(415) 555-2671"),
            ("personal-phone", "415-555-2671"),
            ("personal-phone", "555-123-4567"),
            ("personal-phone", "020 7946 0018"),
            ("personal-account", "4111 1111 1111 1111"),
            ("personal-account", "4111111111111111"),
            ("personal-account", "3782 822463 10005"),
            ("personal-account", "GB82 WEST 1234 5698 7654 32"),
            ("personal-account", "DE89370400440532013000"),
            ("personal-id", "536-90-4399"),
            ("personal-id", "943 476 5870"),
            ("personal-id", "360426199101010071"),
            ("personal-id", "971013-9019902"),
            ("personal-id", "2341 2341 2346"),
            ("personal-id", "6214 9832 0257"),
            ("personal-id", "390.533.447-05"),
            ("personal-id", "2 95 10 99 126 111 93"),
            ("personal-id", "54362315-K"),
            ("personal-id", "X-2482300W"),
            ("personal-id", "RCCMNL83S18D969H"),
            ("personal-id", "36 574 261 809"),
            ("personal-id", "880320-0016"),
            ("personal-id", "131052-308T"),
            ("personal-id", "151086 95088"),
            ("personal-id", "85.07.30-033.28"),
            ("personal-id", "756.9217.0769.85"),
            ("personal-id", "BOXW310820HNERXN09"),
            ("personal-id", "1-2345-45678-78-1"),
            ("personal-id", "7503305044089"),
            ("secret", "AKIAIOSFODNN7EXAMPLE"),
            ("secret", "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a"),
            ("secret", "sk-proj-4fJ8xQ2mZr7Lk9Tn3Vb6Ws1"),
            ("secret", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N"),
            ("secret", "xoxb-123456789012-abcdEFGH1234"),
        ],
    )
    @pytest.mark.parametrize("around", ["It is {}.", "値は{}です。", "({}),", "{}"])
    def test_private_data_is_found_in_any_context(self, kind: str, value: str, around: str) -> None:
        text = around.format(value)
        (hit,) = PrivateData().find(text, "en")
        assert (hit.kind, text[hit.start : hit.end]) == (kind, value)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("password: hunter2!x", "hunter2!x"),
            ('api_key = "a8f5f167f44f4964e6c998de"', "a8f5f167f44f4964e6c998de"),
            ("Passwort ist Sommer2024.", "Sommer2024"),
            ("パスワードは tr0ub4dor です", "tr0ub4dor"),
            ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCY"),
            ("postgres://admin:s3cretpw@db.example.org/x", "s3cretpw"),
        ],
    )
    def test_passwords_are_found(self, text: str, value: str) -> None:
        (hit,) = PrivateData().find(text)
        assert (hit.kind, text[hit.start : hit.end]) == ("secret", value)

    @pytest.mark.parametrize(
        "text",
        [
            "In 2008-2009 the rate was 3.14159, p < 0.001 (n = 1234567890).",
            "See 347 U.S. 483, 495-96 (1954); 876 F.3d 1306, and pages 250-300.",
            "doi:10.1038/s41586-020-2649-2, ISBN 978-3-16-148410-0, PMID 12345678.",
            "Gene ID 1234-5678-90; CAS 50-78-2; ICD-10 E11.9; dated 07/29/2008 and 2023-11-05.",
            "Take 500-1000 mg every 4-6 hours, 120/80 mmHg, 1,234,567.89 in total.",
            "Your password is required: please enter it. The secret is out: nobody knew.",
            "password: <your password>, api_key: ${API_KEY}, token: xxxxxxxxxxxxxxxx",
            "commit 9fceb02d0ae598e95dc970b74767f19372d61af8, id 123e4567-e89b-12d3-a456-426614174000",
            "Pneumonoultramicroscopicsilicovolcanoconiosis/otorhinolaryngological-examination",
            "https://www.example.org/health/topics/2021/05/some-long-title-of-a-page-42",
            "Call 1-800-633-4227 or +1 800 633 4227, free of charge, or 0800 100900.",
            "@someone wrote: 3 @ 5 each, me@home",
            "第1234条第56項 令和5年4月1日から 12-34-56",
        ],
    )
    @pytest.mark.parametrize("language", ["en", "ja"])
    def test_what_is_not_private_is_not_found(self, text: str, language: str) -> None:
        assert PrivateData().find(text, language) == []

    def test_a_telephone_number_after_a_postal_code_is_found(self) -> None:
        text = "Bethesda, MD 20892-3655 301-496-5248 E-mail"
        (hit,) = PrivateData().find(text, "en")
        assert text[hit.start : hit.end] == "301-496-5248"

    def test_national_telephone_numbers_are_found_in_the_given_region(self) -> None:
        text = "お電話は03-1234-5678まで"
        assert PrivateData().find(text, None) == []
        (hit,) = PrivateData("jp").find(text)
        assert text[hit.start : hit.end] == "03-1234-5678"
        with pytest.raises(CorpusError, match="ISO 3166"):
            PrivateData("Japan")

    def test_masking_leaves_nothing_to_find(self) -> None:
        text = (
            "Jane (jane@example.org, +44 20 7946 0018) has the password: tr0ub4dor3 and the card 4111 1111 1111 1111.\n"
            "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----"
        )
        private = PrivateData()
        clean = redact(text, private.find(text, "en"))
        assert clean == "Jane ([EMAIL], [PHONE]) has the password: [SECRET] and the card [ACCOUNT].\n[SECRET]"
        assert private.find(clean, "en") == []

    def test_a_message_never_shows_a_value_whole(self) -> None:
        for value in ("jane.doe@example.org", "山田太郎", "Al", "tr0ub4dor"):
            assert value not in masked(value)
            assert f"{len(value)} characters" in masked(value)

    @pytest.mark.parametrize("offset", range(-14, 3))
    def test_names_are_found_wherever_a_long_text_is_cut(self, offset: int) -> None:
        """Each is found once and whole, although two parts may contain it, and the end of a part may cut it."""

        def pipeline(text: str) -> SimpleNamespace:
            assert len(text) <= 100_000
            found = re.finditer("Ada(?: [A-Z][a-z]*)?", text)
            return SimpleNamespace(
                ents=[SimpleNamespace(label_="PER", start_char=m.start(), end_char=m.end()) for m in found]
            )

        private, name = PrivateData(), "Ada Lovelace"
        private._pipeline = pipeline
        for length in (0, 50, 100_000, 100_001, 198_999, 199_000, 199_001, 300_000):
            text = " " * length
            for cut in range(500, length - 20, 500):
                text = text[: cut + offset] + name + text[cut + offset + len(name) :]
            hits = list(private._names(text))
            assert [text[hit.start : hit.end] for hit in hits] == [name] * text.count(name)

    @pytest.mark.slow
    def test_names_are_found_by_a_spacy_pipeline(self, tmp_path: Path) -> None:
        """In its own process, because spaCy imports libraries that change how others behave."""
        script = f"""
import spacy
from domain_ft.corpus.checks.private import PrivateData
from domain_ft.errors import CorpusError
pipeline = spacy.blank("en")
pipeline.add_pipe("entity_ruler").add_patterns([{{"label": "PERSON", "pattern": "Ada Lovelace"}}])
pipeline.to_disk({str(tmp_path / "names")!r})
text = "We met Ada Lovelace in London."
for hit in PrivateData(names={str(tmp_path / "names")!r}).find(text):
    print(hit.kind, text[hit.start : hit.end])
try:
    PrivateData(names="none")
except CorpusError as error:
    print(error.what)
"""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
        )
        found, refused = done.stdout.splitlines()
        assert found == "personal-name Ada Lovelace"
        assert "no such pipeline" in refused


@given(st.lists(st.integers(0, 10_000), min_size=1))
def test_percentiles_are_those_of_numpy(values: list[int]) -> None:
    found = distribution(values)
    assert (found["count"], found["sum"], found["min"], found["max"]) == (
        len(values),
        sum(values),
        min(values),
        max(values),
    )
    for percent in (5, 50, 95, 99):
        assert found[f"p{percent}"] == pytest.approx(np.percentile(values, percent), abs=0.01)
