"""Stand-ins for the tests of tokens: a split in memory, and small fast tokenizers of five kinds."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from domain_ft.corpus.batches import PackedBatch
from domain_ft.corpus.documents import Document
from domain_ft.corpus.tokens import TokenRows

SENTENCES = [
    "The licensee shall not sublicense the work, nor remove any notice of copyright.",
    "Abnormality of the skeletal system, with short stature; café naïve Ångström.",
    "第一条 この法律は、公布の日から施行する。ただし、次の各号に掲げる規定は、この限りでない。",
    "The quick brown fox jumps over the lazy dog 0123456789 times! 😀",
]


class Split:
    """A split of a corpus, in memory. `reads` counts how often its documents were read."""

    def __init__(self, texts: Sequence[str], ids: Sequence[str] | None = None) -> None:
        self.texts = list(texts)
        self.ids = list(ids) if ids is not None else [f"document-{i}" for i in range(len(self.texts))]
        self.key = hashlib.sha256(repr((self.texts, self.ids)).encode("utf-8")).hexdigest()
        self.reads = 0

    def __len__(self) -> int:
        return len(self.texts)

    def documents(self) -> Iterator[Document]:
        self.reads += 1
        for name, text in zip(self.ids, self.texts, strict=True):
            yield Document(name, text, "memory")


KINDS = ("wordpiece", "roberta", "gpt2", "unigram", "llama")


@functools.cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer like that of BERT (`wordpiece`), RoBERTa, GPT-2, XLM-R (`unigram`) or Llama (byte fallback)."""
    backend, specials = _MAKERS[kind]()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **specials)


def _wordpiece() -> tuple[Tokenizer, dict[str, str]]:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=names, show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fields = ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"]
    return backend, dict(zip(fields, names, strict=True))


def _byte_level(names: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return backend


def _roberta() -> tuple[Tokenizer, dict[str, str]]:
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = _byte_level(names)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    fields = ["bos_token", "pad_token", "eos_token", "unk_token", "mask_token"]
    return backend, dict(zip(fields, names, strict=True))


def _gpt2() -> tuple[Tokenizer, dict[str, str]]:
    backend = _byte_level(["<|endoftext|>"])
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}


def _unigram() -> tuple[Tokenizer, dict[str, str]]:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=names, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fields = ["bos_token", "pad_token", "eos_token", "unk_token", "mask_token"]
    return backend, dict(zip(fields, names, strict=True))


def _llama() -> tuple[Tokenizer, dict[str, str]]:
    names = ["<unk>", "<s>", "</s>"]
    vocabulary = {name: i for i, name in enumerate([*names, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"])}
    for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
        vocabulary[letter] = len(vocabulary)
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


_MAKERS = {"wordpiece": _wordpiece, "roberta": _roberta, "gpt2": _gpt2, "unigram": _unigram, "llama": _llama}


def document_rows(rows: TokenRows, document: int) -> np.ndarray:
    """The indices of one document's rows, in the order of its text."""
    return np.flatnonzero(rows.documents == document)


def sequence_slices(batch: PackedBatch) -> list[slice]:
    """The slice of each sequence in a batch."""
    return [slice(a, b) for a, b in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True)]
