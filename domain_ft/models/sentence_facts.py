"""What makes a model a sentence model: pooling, length, prompts, in the files of sentence-transformers.

    modules.json                        the modules: a Transformer, a Pooling, and often Normalize
    sentence_bert_config.json           max_seq_length, do_lower_case (beside config.json)
    1_Pooling/config.json               how token states become one vector
    config_sentence_transformers.json   prompts, the similarity, truncate_dim

Old models have the Transformer in a subfolder, 0_Transformer. The files of all versions up to 6.2 are read. Version 6
has the key `pooling_mode` instead of `pooling_mode_*`; the older keys are written, because every version reads them.
What cannot be computed here is refused, by an error that names it, and never approximated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domain_ft.errors import ModelError
from domain_ft.json_files import Kinds, check_kinds, describe, loads, read_object
from domain_ft.storage import write_json

if TYPE_CHECKING:
    from domain_ft.models.pooling import PoolingKind

MODULES_NAME = "modules.json"
_MODEL_NAME = "config_sentence_transformers.json"
_LENGTH_NAME = "sentence_bert_config.json"
_LENGTH_NAMES = (
    _LENGTH_NAME,
    *(f"sentence_{kind}_config.json" for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta")),
)
"""Names of the Transformer module's settings file; old versions named it by the architecture."""

_POOLINGS: dict[str, PoolingKind] = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "last"}
"""The supported pooling modes, by their names in `pooling_mode`."""

_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The modes by their keys before version 6, in the order in which they are written."""

_POOLING_KINDS: Kinds = {**dict.fromkeys(_POOLING_KEYS, bool), "pooling_mode": (str, list), "include_prompt": bool}
_LENGTH_KINDS: Kinds = {"max_seq_length": int, "do_lower_case": bool, "processing_kwargs": dict}
_MODEL_KINDS: Kinds = {
    "model_type": str,
    "prompts": dict,
    "default_prompt_name": str,
    "similarity_fn_name": str,
    "truncate_dim": int,
}

_AGAIN = "fetch or copy the file again"
_SUPPORTED = "use a model with a Transformer, one Pooling (mean, cls, max or lasttoken), and optionally Normalize"


@dataclass(frozen=True)
class SentenceFacts:
    """How a sentence model turns a text into a vector, besides its weights and tokenizer.

    Attributes:
        pooling: how the states of the tokens become one vector.
        normalise: whether vectors are scaled to length 1.
        max_length: the most tokens of a text that are read, special ones included; None for the tokenizer's limit.
        lower_case: whether texts are lower-cased before they are tokenised.
        prompts: texts to put before the input, by name, such as {"query": "query: "}.
        default_prompt: the name of the prompt that is used if none is chosen.
        similarity: how vectors are meant to be compared: cosine, dot, euclidean or manhattan.
        dimensions: how many leading numbers of a vector are meant to be used; None for all.
    """

    pooling: PoolingKind = "mean"
    normalise: bool = False
    max_length: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str = "cosine"
    dimensions: int | None = None

    def save(self, folder: Path, dimension: int) -> None:
        """Write the files of sentence-transformers into the folder of a transformers model.

        Args:
            folder: with config.json, the weights and the tokenizer.
            dimension: the size of the model's hidden states.
        """
        names = ["Transformer", "Pooling", *(["Normalize"] if self.normalise else [])]
        modules = [
            {
                "idx": place,
                "name": str(place),
                "path": f"{place}_{name}" if place else "",
                "type": f"sentence_transformers.models.{name}",
            }
            for place, name in enumerate(names)
        ]
        modes = {key: _POOLINGS.get(mode) == self.pooling for key, mode in _POOLING_KEYS.items()}
        pooling = {"word_embedding_dimension": dimension, **modes, "include_prompt": True}
        for module in modules[1:]:
            (folder / str(module["path"])).mkdir()
        write_json(folder / "1_Pooling" / "config.json", pooling)
        write_json(folder / _LENGTH_NAME, {"max_seq_length": self.max_length, "do_lower_case": self.lower_case})
        write_json(
            folder / _MODEL_NAME,
            {
                "model_type": "SentenceTransformer",
                "prompts": dict(self.prompts),
                "default_prompt_name": self.default_prompt,
                "similarity_fn_name": self.similarity,
                **({"truncate_dim": self.dimensions} if self.dimensions else {}),
            },
        )
        write_json(folder / MODULES_NAME, modules)

    @classmethod
    def load(cls, folder: Path) -> SentenceFacts:
        """The facts in a folder with a modules.json.

        Raises:
            ModelError: a file is damaged, the Pooling's is missing, or the model computes its vectors in a way that is
                not supported.
        """
        modules = _modules(folder)
        _refuse_unsupported(modules, folder)
        model = _read(folder / _MODEL_NAME, _MODEL_KINDS)
        _check_model(model, folder / _MODEL_NAME)
        inside = folder / modules[0]["path"]
        name = next((name for name in _LENGTH_NAMES if (inside / name).is_file()), _LENGTH_NAME)
        length = _read(inside / name, _LENGTH_KINDS)
        _check_length(length, inside / name)
        pooling = folder / modules[1]["path"] / "config.json"
        name = pooling.relative_to(folder).as_posix()  # so that a message tells it from the model's config.json
        return cls(
            pooling=_pooling(read_object(pooling, ModelError, kinds=_POOLING_KINDS, fix=_AGAIN, what=name), pooling),
            normalise=len(modules) == 3,
            max_length=length.get("max_seq_length"),
            lower_case=bool(length.get("do_lower_case")),
            prompts={name: prompt or "" for name, prompt in (model.get("prompts") or {}).items()},
            default_prompt=model.get("default_prompt_name"),
            similarity=model.get("similarity_fn_name") or "cosine",
            dimensions=model.get("truncate_dim"),
        )


def facts_in(folder: Path) -> SentenceFacts | None:
    """The facts of the model in `folder`; None if no file says that it is a sentence model.

    Args:
        folder: the folder with the transformers model, which is a subfolder in an old sentence model.

    Raises:
        ModelError: a file is damaged, or the model computes its vectors in a way that is not supported.
    """
    inside = folder.resolve()
    if (inside / MODULES_NAME).is_file():
        return SentenceFacts.load(folder)
    if transformer_folder(inside.parent) == inside:
        return SentenceFacts.load(inside.parent)
    return None


def transformer_folder(folder: Path) -> Path | None:
    """The subfolder with the transformers model of an old sentence model, such as 0_Transformer; else None.

    Raises:
        ModelError: modules.json is damaged.
    """
    if not (folder / MODULES_NAME).is_file():
        return None
    inside = folder / _modules(folder)[0]["path"]
    return inside if inside != folder and (inside / "config.json").is_file() else None


# ------------------------------------------------------------------------------------------------------ reading files


def _modules(folder: Path) -> list[dict[str, str]]:
    """`type` and `path` of each module, in order; at least one."""
    where = folder / MODULES_NAME
    try:
        modules = loads(where.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"{MODULES_NAME} cannot be read: {error.strerror or error}", where=str(where), fix=_AGAIN
        ) from None
    except ValueError as error:
        raise ModelError(f"{MODULES_NAME} is damaged: it is not JSON ({error})", where=str(where), fix=_AGAIN) from None
    if not isinstance(modules, list) or not modules or not all(isinstance(module, dict) for module in modules):
        raise ModelError(
            f"{MODULES_NAME} holds {describe(modules)} where a list of modules is expected",
            where=str(where),
            fix=_AGAIN,
        )
    for module in modules:
        check_kinds(module, {"type": str, "path": str}, ModelError, where, needed=("type", "path"), fix=_AGAIN)
        path = Path(module["path"])
        if path.is_absolute() or ".." in path.parts:
            raise ModelError(
                f"{MODULES_NAME} names the folder '{path}', which is outside the model's", where=str(where), fix=_AGAIN
            )
    return modules


def _refuse_unsupported(modules: list[dict[str, str]], folder: Path) -> None:
    """Raise unless the modules are a Transformer, a Pooling and perhaps Normalize."""
    names = []
    for module in modules:
        package, _, name = module["type"].rpartition(".")
        if package.partition(".")[0] != "sentence_transformers":
            raise ModelError(
                f"the model has a custom module, {module['type']}, whose code would have to be run",
                where=str(folder / MODULES_NAME),
                fix=_SUPPORTED,
            )
        names.append(name)
    unknown = [name for name in names if name not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        raise ModelError(
            f"the model has a module {unknown[0]}, which is not supported",
            where=str(folder / MODULES_NAME),
            fix=_SUPPORTED,
        )
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(
            f"the modules are {', '.join(names)}, in this order, which is not supported",
            where=str(folder / MODULES_NAME),
            fix=_SUPPORTED,
        )


def _pooling(values: Mapping[str, Any], where: Path) -> PoolingKind:
    given = values.get("pooling_mode")
    if given is None:
        modes = [mode for key, mode in _POOLING_KEYS.items() if values.get(key)] or ["mean"]
    else:
        modes = [given] if isinstance(given, str) else given
    if len(modes) != 1:
        raise ModelError(
            f"the model concatenates several poolings ({', '.join(map(str, modes))}), which is not supported",
            where=str(where),
            fix=_SUPPORTED,
        )
    if modes[0] not in _POOLINGS:
        raise ModelError(f"the pooling is {modes[0]}, which is not supported", where=str(where), fix=_SUPPORTED)
    if values.get("include_prompt") is False:
        raise ModelError(
            "the pooling leaves out the tokens of the prompt (include_prompt = false), which is not supported",
            where=f'{where}, field "include_prompt"',
            fix=_SUPPORTED,
        )
    return _POOLINGS[modes[0]]


def _check_model(values: Mapping[str, Any], where: Path) -> None:
    kind = values.get("model_type") or "SentenceTransformer"
    if kind != "SentenceTransformer":
        raise ModelError(f"the model is a {kind}, not a SentenceTransformer", where=str(where), fix=_SUPPORTED)
    prompts = values.get("prompts") or {}
    check_kinds(prompts, dict.fromkeys(prompts, str), ModelError, where, fix=_AGAIN)
    default = values.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ModelError(
            f"the default prompt '{default}' is not among the prompts ({', '.join(prompts) or 'there are none'})",
            where=f'{where}, field "default_prompt_name"',
            fix="correct the name, or remove it",
        )
    _check_positive(values, "truncate_dim", where)


def _check_length(values: Mapping[str, Any], where: Path) -> None:
    """Check the Transformer module's settings. Since version 5 they also say what the module reads and computes."""
    _check_positive(values, "max_seq_length", where)
    for key, usual in (("transformer_task", "feature-extraction"), ("module_output_name", "token_embeddings")):
        if values.get(key) not in (None, usual):
            raise ModelError(
                f"the Transformer has the {key} '{values[key]}', which is not supported",
                where=f'{where}, field "{key}"',
                fix=_SUPPORTED,
            )
    if values.get("processing_kwargs"):
        raise ModelError(
            "the tokenizer has options (processing_kwargs), which are not supported",
            where=f'{where}, field "processing_kwargs"',
            fix=_SUPPORTED,
        )


def _check_positive(values: Mapping[str, Any], key: str, where: Path) -> None:
    value = values.get(key)
    if value is not None and value < 1:
        raise ModelError(f"{key} is {value}", where=f'{where}, field "{key}"', fix="correct it, or remove it")


def _read(path: Path, kinds: Kinds) -> dict[str, Any]:
    """The JSON object in a file that may be missing."""
    return read_object(path, ModelError, kinds=kinds, fix=_AGAIN) if path.is_file() else {}
