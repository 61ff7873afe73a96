"""Resolves the targets of LoRA, and the modules trained in full, from names and patterns to module paths.

The rules are PEFT's, so that PEFT resolves an adapter to the same modules: `all-linear` is every linear layer except
the output projection and classification heads, a regular expression must match a whole path, and a plain name matches a
path or its end. `attention` is an addition, with names from `architectures`.

Targets that cannot be merged are refused before the model is changed: if two modules share a weight (a tied output
projection), merging LoRA on one of them would change the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from domain_ft.errors import ModelError
from domain_ft.models.architectures import attention_targets

LINEAR_CLASSES = (nn.Linear, Conv1D)
_CLASSIFICATION_HEADS = ("classifier", "score")
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_SHOWN = 8  # module names in an error


def resolve_targets(model: nn.Module, targets: str | Sequence[str], trained_whole: Sequence[str] = ()) -> list[str]:
    """The paths of the linear layers that match `targets`, in the model's order.

    Args:
        model: any torch model. The output projection is only known for transformers models.
        targets: `all-linear`, `attention`, a regular expression for the whole path, or a list of names, each a path
            or the end of one (`query`, `attention.self.query`).
        trained_whole: paths of modules that are trained in full; layers in them get no LoRA, as in PEFT.

    Raises:
        ModelError: nothing matches, a listed name matches no module, the expression is malformed, or a match is not a
            linear layer or shares its weight with another module.
    """
    linear = {
        path: module
        for path, module in model.named_modules()
        if path and isinstance(module, LINEAR_CLASSES) and not inside(path, trained_whole)
    }
    if targets == "all-linear":
        paths = _without_heads(model, linear)
    elif targets == "attention":
        paths = _attention_paths(model, trained_whole)
    elif isinstance(targets, str):
        paths = _matching_expression(model, targets, linear)
    else:
        paths = _matching_names(model, targets, trained_whole)
    if not paths:
        raise ModelError(
            f"no linear layer of {type(model).__name__} matches the targets {targets!r}",
            fix=f"give all-linear, attention, or a regular expression for a whole path such as {_some(linear)}",
        )
    refuse_unfit(model, paths)
    return paths


def check_ranks(model: nn.Module, ranks: Mapping[str, int]) -> tuple[str, ...]:
    """Check ranks against the sizes of their layers.

    An update of a weight (N, K) has at most rank min(N, K); a higher rank only adds parameters.

    Args:
        model: any torch model.
        ranks: of the layers by path.

    Returns:
        A note for the user if some ranks are too high; else an empty tuple.

    Raises:
        ModelError: all ranks are too high.
    """
    limits = {path: min(model.get_parameter(f"{path}.weight").shape) for path in ranks}
    over = [path for path, rank in ranks.items() if rank > limits[path]]
    if not over:
        return ()
    largest, widest = max(ranks[path] for path in over), max(limits.values())
    if len(over) == len(ranks):
        raise ModelError(
            f"the LoRA rank {largest} is larger than every target layer: the largest layer allows at most {widest}",
            fix=f"give a rank of at most {widest}; 8 to 64 is usual",
        )
    return (
        f"the LoRA rank {largest} is larger than {len(over)} of the {len(ranks)} layers, such as {over[0]}, which "
        f"allows at most {limits[over[0]]}: there it only adds parameters",
    )


def refuse_unfit(model: nn.Module, paths: Sequence[str], *, embeddings: bool = False) -> None:
    """Raise unless each path is a linear layer (or, with `embeddings`, an embedding) whose weight is not shared.

    Raises:
        ModelError: a module of another class, or a weight that another module shares.
    """
    shared = _shared_parameters(model)
    for path in paths:
        layer = model.get_submodule(path)
        if not isinstance(layer, LINEAR_CLASSES) and not (embeddings and isinstance(layer, nn.Embedding)):
            raise _not_linear_error(path, layer)
        others = [name for name in shared.get(id(layer.weight), []) if name != f"{path}.weight"]
        if others:
            raise ModelError(
                f"the targets match {path}, whose weight is tied to {others[0]}: LoRA on one of them cannot be "
                "merged without changing the other",
                fix=f"leave {path} out of the targets, or load a base model whose weights are not tied",
            )


def resolve_modules(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The paths of the modules to train in full, in the model's order; each name is a path or the end of one.

    Raises:
        ModelError: a name matches nothing, or it matches a module that PEFT could not save and load again: a container
            without a forward, a module that shares a weight, or a module whose path PEFT would also match elsewhere.
    """
    paths: list[str] = []
    for name in names:
        matches = [path for path, _ in model.named_modules() if ends_with(path, name)]
        if not matches:
            modules = {path: module for path, module in model.named_modules() if path and list(module.parameters())}
            raise ModelError(
                f"no module of {type(model).__name__} is called {name!r}, so it cannot be trained in full",
                fix=f"name a module, such as {_some(_related(name, modules))}",
            )
        paths += matches
    outermost = [path for path, _ in model.named_modules() if path in paths and not inside(path, paths, strictly=True)]
    shared = _shared_parameters(model)
    for path in outermost:
        _refuse_unsavable(model, path, outermost, shared)
    return outermost


def head_modules(model: nn.Module) -> list[str]:
    """The modules of an LM head that can be trained in full: those between the body and the output projection.

    In most models the output projection is tied to the embeddings, and PEFT cannot save and load a module with a tied
    weight (BERT's `cls` loses the projection's bias). So these are the largest modules of the head without tied
    weights: `cls.predictions.transform` in BERT, `lm_head.dense` and `lm_head.layer_norm` in RoBERTa, none in most
    decoders.
    """
    output = _output_projection(model)
    if output is None or not isinstance(model, PreTrainedModel):
        return []
    shared = _shared_parameters(model)
    modules = []
    for name, child in model.named_children():
        if child is not model.base_model:
            modules += _untied(name, child, {id(parameter) for parameter in output.parameters()} | shared.keys())
    return modules


def tied_projections(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that share the input embedding's weight, such as a tied output projection, by path."""
    embedding = input_embedding(model)
    if embedding is None:
        return {}
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight is embedding.weight
    }


def input_embedding(model: nn.Module) -> nn.Embedding | None:
    """The token embedding of a transformers model; None for other models."""
    embedding = model.get_input_embeddings() if isinstance(model, PreTrainedModel) else None
    return embedding if isinstance(embedding, nn.Embedding) else None


def path_of(model: nn.Module, module: nn.Module) -> str:
    """The path of a module in `model`."""
    return next(path for path, candidate in model.named_modules() if candidate is module)


def ends_with(path: str, name: str) -> bool:
    """Whether `name` is the path or its last parts, as PEFT matches a listed name."""
    return path == name or path.endswith(f".{name}")


def inside(path: str, parents: Iterable[str], *, strictly: bool = False) -> bool:
    """Whether the path is below one of `parents`, or, unless `strictly`, is one of them."""
    return any(path.startswith(f"{parent}.") or (path == parent and not strictly) for parent in parents)


def _without_heads(model: nn.Module, linear: dict[str, nn.Module]) -> list[str]:
    output = _output_projection(model)
    return [
        path
        for path, module in linear.items()
        if module is not output and path.split(".")[0] not in _CLASSIFICATION_HEADS
    ]


def _attention_paths(model: nn.Module, trained_whole: Sequence[str]) -> list[str]:
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"the attention layers of {type(model).__name__} are not known, since it is not a transformers model",
            fix="name them by a regular expression for the whole path",
        )
    return _matching_names(model, attention_targets(model), trained_whole)


def _matching_expression(model: nn.Module, expression: str, linear: dict[str, nn.Module]) -> list[str]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ModelError(
            f"the targets {expression!r} are not a regular expression: {error}",
            fix="give all-linear, attention, or a regular expression that matches whole module paths",
        ) from None
    embeddings = [path for path, module in model.named_modules() if isinstance(module, nn.Embedding)]
    return [path for path in [*linear, *embeddings] if pattern.fullmatch(path)]


def _matching_names(model: nn.Module, names: Sequence[str], trained_whole: Sequence[str]) -> list[str]:
    modules = dict(model.named_modules())
    for name in names:
        if not any(ends_with(path, name) for path in modules):
            linear = {path: module for path, module in modules.items() if isinstance(module, LINEAR_CLASSES)}
            raise ModelError(
                f"no module of {type(model).__name__} is called {name!r}, which the targets name",
                fix=f"name linear layers, such as {_some(_related(name, linear))}",
            )
    paths = [path for path in modules if any(ends_with(path, name) for name in names)]
    return [path for path in paths if not inside(path, trained_whole)]


def _not_linear_error(path: str, module: nn.Module) -> ModelError:
    kind = type(module).__name__
    if isinstance(module, nn.Embedding):
        return ModelError(
            f"the targets match {path}, an embedding, which LoRA does not support here",
            fix="train single rows of it instead (trainable tokens), or leave it out of the targets",
        )
    return ModelError(
        f"the targets match {path}, a {kind}, which LoRA does not support",
        fix="name layers of the classes Linear or Conv1D",
    )


def _refuse_unsavable(model: nn.Module, path: str, chosen: Sequence[str], shared: dict[int, list[str]]) -> None:
    module = model.get_submodule(path)
    if isinstance(module, _CONTAINERS):
        raise ModelError(
            f"{path} is a {type(module).__name__}, which PEFT cannot train and save in full",
            fix=f"name modules inside it, such as {path}.0",
        )
    tied = [name for name, parameter in module.named_parameters() if id(parameter) in shared]
    if tied:
        untied = _untied(path, module, shared.keys())
        instead = f"train {' and '.join(untied)} instead" if untied else "train LoRA layers instead"
        raise ModelError(
            f"{path} cannot be trained in full, since {path}.{tied[0]} is tied to another weight, and PEFT would lose "
            "the tie on reload",
            fix=f"{instead}, or train the whole model with --method full",
        )
    # PEFT compares the ends of paths as plain strings.
    every = [other for other, _ in model.named_modules(remove_duplicate=False)]
    also = [other for other in every if other.endswith(path) and other not in chosen]
    if also:
        raise ModelError(
            f"{path} cannot be trained in full, since PEFT would match its name to {also[0]} too",
            fix="train LoRA layers instead, or name both modules",
        )


def _untied(path: str, module: nn.Module, tied: Iterable[int]) -> list[str]:
    """The largest modules at and below `path` whose parameters are all untied; `tied` has the id() of each tied one."""
    tied = set(tied)
    parameters = list(module.parameters())
    if not parameters:
        return []
    if not isinstance(module, _CONTAINERS) and not any(id(parameter) in tied for parameter in parameters):
        return [path]
    return [below for name, child in module.named_children() for below in _untied(f"{path}.{name}", child, tied)]


def _shared_parameters(model: nn.Module) -> dict[int, list[str]]:
    """The names of each parameter that has more than one name in the model, by its id()."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {key: shared for key, shared in names.items() if len(shared) > 1}


def _output_projection(model: nn.Module) -> nn.Module | None:
    return model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None


def _related(name: str, modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The modules whose path contains the last part of `name`, or all modules if there are none."""
    last = name.split(".")[-1].lower()
    return {path: module for path, module in modules.items() if last in path.lower()} or modules


def _some(modules: Iterable[str]) -> str:
    """A few module paths for an error. If paths differ only in layer numbers, the first is shown."""
    shapes: dict[str, str] = {}
    for path in modules:
        shapes.setdefault(re.sub(r"\d+", "0", path), path)
    names = list(shapes.values())
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
