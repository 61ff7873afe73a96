"""Splits texts into sentences, in any script, without a model or a list of abbreviations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

SENTENCE_ENDS = frozenset(".!?…։؟۔।॥።፧፨។៕᠃᠉。．！？｡‼‽⁇⁈⁉⸮꓿")
"""The signs that end a sentence: the usual ones of Unicode's property Sentence_Terminal, and the ellipsis."""

_WIDE = "。．！？｡"  # these need no space after them
_SPACED = "".join(sorted(SENTENCE_ENDS - set(_WIDE)))
_CLOSING = re.escape(")]}\"'»”’›」』）】")
# White space must follow a spaced sign: otherwise the sign may be a decimal point. Closing brackets and quotation marks
# belong to the sentence.
_CUT = re.compile(
    rf"(?<=[{re.escape(_SPACED)}])[{_CLOSING}]*\s+|(?P<wide>(?<=[{_WIDE}])(?![{_WIDE}])[{_CLOSING}]*\s*)|[\n\r\u2028\u2029]\s*"
)


def sentence_bounds(
    text: str, *, whole: Iterable[tuple[int, int]] = (), breaks: Iterable[int] = ()
) -> Iterator[tuple[int, int]]:
    """The sentences of a text in order, as (start, end) in characters, without the white space around them.

    A sentence ends at the end of a line, or after a sign of `SENTENCE_ENDS` and the closing brackets and quotation
    marks that follow it. Unless the sign is `。` or similar, white space must follow it. A lower-case letter must not
    come next, as in `i.v. infusion`, except after `。` and similar signs. So `Fig. 2` is cut, and a sentence that
    begins with `p53` is joined to the sentence before it, even if that ends a line.

    Args:
        text: in any language.
        whole: (start, end) of spans that are never cut, such as names.
        breaks: offsets at which a sentence always ends, unless they are inside such a span.

    >>> text = "He took 0.5 mg i.v. daily. (It helped.) 頭痛が治った。終わり"
    >>> [text[start:end] for start, end in sentence_bounds(text)]
    ['He took 0.5 mg i.v. daily.', '(It helped.)', '頭痛が治った。', '終わり']
    """
    cuts = {
        match.end() for match in _CUT.finditer(text) if match["wide"] is not None or not _is_lower(text, match.end())
    }
    start, within = 0, sorted(whole, reverse=True)
    reach = 0  # the last end of the spans that begin before the cut
    for cut in [*sorted(cuts.union(breaks) - {0, len(text)}), len(text)]:
        while within and within[-1][0] < cut:
            reach = max(reach, within.pop()[1])
        if cut < reach:
            continue
        sentence = text[start:cut]
        bounds = start + len(sentence) - len(sentence.lstrip()), start + len(sentence.rstrip())
        if bounds[0] < bounds[1]:
            yield bounds
        start = cut


def _is_lower(text: str, place: int) -> bool:
    return text[place : place + 1].islower()
