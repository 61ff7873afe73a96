"""A sentence model: texts go in, one vector for each comes out.

    model = load_sentence_model("minilm")                  # or a folder, a hub id, a finished run
    found = model.encode(["The lease ends.", "家賃"], prompt=model.prompt("query"))
    found.vectors                                          # (2, D) float32

The vectors equal those of sentence-transformers for the same folder, with one exception: here the name of a special
token in a text is plain text. Texts are tokenised as they are given, without cleaning.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from domain_ft.corpus.examples import Labels
from domain_ft.corpus.packing import micro_batches
from domain_ft.corpus.tasks.encoding import Encoder
from domain_ft.errors import ModelError, nearest
from domain_ft.models.base import BaseModel, Tokens, load
from domain_ft.models.modes import evaluating
from domain_ft.models.sentence_facts import SentenceFacts
from domain_ft.models.sources import find
from domain_ft.progress import Progress

_NAME = re.compile(r"[\w-]+")
_SURROGATES = re.compile("[\ud800-\udfff]")  # from truncated JSON escapes; tokenizers refuse them


@dataclass(frozen=True)
class Encoded:
    """The vectors of some texts.

    Attributes:
        vectors: (texts, D) float32, in the order of the texts.
        tokens: the tokens that the model read, with prompts and special tokens.
        cut: (texts,) bool, whether the text is too long, so that its end was left out.
    """

    vectors: npt.NDArray[np.float32]
    tokens: int
    cut: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SentenceModel:
    """A model whose body makes sentence vectors. LoRA may be in it.

    Attributes:
        base: the model; its head is not used.
        facts: pooling, length and prompts.
        notes: what the user should know before using the model.
    """

    base: BaseModel
    facts: SentenceFacts
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, base: BaseModel) -> SentenceModel:
        """The sentence model of `base`. Without facts, its vectors are the mean over all tokens, not normalised."""
        notes = base.notes[:-1] if base.head_is_random else base.notes  # the last note is about that head
        if base.sentence is None:
            notes += (
                f"'{base.name}' is not a sentence model (it has no modules.json): its vectors are the mean over the "
                "tokens' last hidden states, and not normalised",
            )
        return cls(base, base.sentence or SentenceFacts(), notes)

    @property
    def max_length(self) -> int:
        """The most tokens of a text that are read, special ones included."""
        return int(min(self.facts.max_length or self.base.tokenizer.model_max_length, self.base.max_length))

    @functools.cached_property
    def dimension(self) -> int:
        """The number of dimensions of a vector."""
        with evaluating(self.base.model):
            return self.vectors(Tokens.of([[0]], self.base.device)).shape[1]

    def prompt(self, given: str | None) -> str:
        """The text to put before a text: the prompt named `given`, else `given` itself.

        For None it is the default prompt; empty if the model has none.

        Raises:
            ModelError: `given` is a single word, so it must be a name, but no prompt has that name.
        """
        prompts = self.facts.prompts
        if given is None:
            return prompts[self.facts.default_prompt] if self.facts.default_prompt is not None else ""
        if given in prompts:
            return prompts[given]
        if _NAME.fullmatch(given):
            raise ModelError(
                f"'{self.base.name}' has no prompt named '{given}'",
                fix=(f"{nearest(given, prompts)}; or " if prompts else "")
                + f"give the prompt's text with the separator at its end, such as '{given}: '",
            )
        return given

    def encode(self, texts: Sequence[str], *, prompt: str = "", tokens_per_micro_batch: int = 4096) -> Encoded:
        """The vectors of `texts`, without gradients. The caller sets autocast.

        Args:
            texts: in any order of lengths; texts of similar length are computed together.
            prompt: put before every text.
            tokens_per_micro_batch: the most tokens in one forward pass. A longer text gets a separate pass.
        """
        sequences, cut = self.tokenize(texts, prompt)
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)  # (texts,)
        vectors = np.empty((len(sequences), self.dimension), dtype=np.float32)
        with evaluating(self.base.model):
            for members in micro_batches(np.arange(len(sequences)), lengths, tokens_per_micro_batch):
                batch = Tokens.of([sequences[member] for member in members], self.base.device)
                vectors[members] = self.vectors(batch).float().cpu().numpy()
        return Encoded(vectors, int(lengths.sum()), cut)

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> tuple[list[list[int]], npt.NDArray[np.bool_]]:
        """The token ids of `prompt` + each text, cut to `max_length`, and which texts were cut, (texts,) bool."""
        given = [_SURROGATES.sub("\ufffd", prompt + text) for text in texts]
        if self.facts.lower_case:
            given = [text.lower() for text in given]
        encodings = self._encoder.backend.encode_batch(given, add_special_tokens=False)
        each = [self._encoder.sequences(encoding.ids) for encoding in encodings]
        return [ids for ((ids, _types),), _ in each], np.array([cut for _, cut in each], dtype=np.bool_)

    def vectors(self, batch: Tokens) -> Tensor:
        """(sequences, D) float32, or float64 if the model is. Differentiable."""
        return self.base.pooling.vectors(self.base.states(batch), batch.cu_seqlens)

    def kept_dimensions(self, given: int | None) -> int:
        """The number of dimensions to keep: `given`, else as many as the model's files say, else all.

        Raises:
            ModelError: the vectors have fewer.
        """
        kept = given or self.facts.dimensions or self.dimension
        if kept > self.dimension:
            raise ModelError(
                f"the vectors of '{self.base.name}' have {self.dimension:,} dimensions, fewer than {kept:,}",
                fix=f"ask for at most {self.dimension:,}",
            )
        return kept

    def shortened(self, vectors: npt.NDArray[np.float32], dimensions: int) -> npt.NDArray[np.float32]:
        """The first `dimensions` numbers of vectors (texts, D), of length 1 again if the model normalises.

        They keep most of the quality only if the model was trained for it (Kusupati et al. 2022, "Matryoshka
        Representation Learning").
        """
        if dimensions == vectors.shape[1]:
            return vectors
        first = torch.from_numpy(vectors[:, :dimensions])  # (texts, dimensions)
        return (F.normalize(first, dim=-1) if self.facts.normalise else first).numpy()

    def save(self, folder: Path) -> None:
        """Write the files of sentence-transformers into the folder to which the transformers model was saved."""
        self.facts.save(folder, self.dimension)

    @functools.cached_property
    def _encoder(self) -> Encoder:
        return Encoder.of(self.base.tokenizer, Labels(()), max_length=self.max_length, long_text="truncate")


def load_sentence_model(
    name: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> SentenceModel:
    """Load a model by an embedded name, a folder, a hub id, or a finished run; adapters are merged.

    Args:
        name: such as `minilm`, `./my-model`, `intfloat/multilingual-e5-small`, `runs/legal`.
        device: of the weights.
        dtype: of the weights.
        progress: called while files are fetched.

    Raises:
        ModelError: the model does not exist, or its vectors are computed in a way that is not supported.
        NotMadeError: an embedded model is not in the cache (`embedded.loading` makes it, or raises AssetError).
    """
    source = find(name, progress)
    try:
        source.sentence_facts()
    except ModelError as error:
        raise ModelError(
            f"the sentence vectors of '{name}' cannot be computed here: {error.what}", where=error.where, fix=error.fix
        ) from None
    return SentenceModel.of(load(name, device=device, dtype=dtype, progress=progress))
