"""Python that loads a run with `peft` or transformers, from within its run folder: for its page and its card."""

from __future__ import annotations

from collections.abc import Sequence

from domain_ft.verbs.shared.facts import BaseFacts


def loading_code(
    base: BaseFacts,
    auto: str,
    *,
    full: bool,
    use: Sequence[str] = (),
    options: str = "",
    tokenizer: str = "source",
    pipeline: Sequence[str] = (),
) -> str:
    """Code that runs as it stands.

    Args:
        base: the model that was trained.
        auto: the class of transformers that loads it, such as `AutoModelForCausalLM`.
        full: whether the run holds a whole model and no adapter.
        use: lines that use `model` and `tokenizer`.
        options: what the base takes besides its name, such as `, num_labels=3`.
        tokenizer: where the tokenizer of a run with an adapter is: `source` (the base's) or `"adapter"`.
        pipeline: lines for a whole model, with `{folder}` for its folder, where transformers has a pipeline for it.
    """
    if full or base.is_run:  # transformers cannot load the base where that is a run
        folder = "model" if full else "merged"
        first = [] if full else ["# first: domain-ft export --model . --output merged"]
        if pipeline:
            lines = ["from transformers import pipeline", "", *(line.format(folder=folder) for line in pipeline)]
        else:
            lines = [
                f"from transformers import {auto}, AutoTokenizer",
                "",
                f'model = {auto}.from_pretrained("{folder}")  # in the run folder',
                f'tokenizer = AutoTokenizer.from_pretrained("{folder}")',
                *use,
            ]
        return "\n".join([*first, *lines])
    named = (
        f"domain_ft.resolve({base.name!r})  # fetched once, then from the cache" if base.embedded else repr(base.source)
    )
    return "\n".join(
        [
            *(["import domain_ft"] if base.embedded else []),
            "from peft import PeftModel",
            f"from transformers import {auto}, AutoTokenizer",
            "",
            f"source = {named}",
            f"base = {auto}.from_pretrained(source{options})",
            'model = PeftModel.from_pretrained(base, "adapter")  # in the run folder',
            f"tokenizer = AutoTokenizer.from_pretrained({tokenizer})",
            *use,
        ]
    )
