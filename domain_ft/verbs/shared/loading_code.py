"""Python code that loads a run with PEFT or transformers, for the run's page and model card."""

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
    """Code to run in the run folder.

    Args:
        base: the base model.
        auto: the transformers class that loads the model, such as `AutoModelForCausalLM`.
        full: whether the run holds a whole model instead of an adapter.
        use: lines that use `model` and `tokenizer`.
        options: further arguments for loading the base, such as `, num_labels=3`.
        tokenizer: where the code loads an adapter's tokenizer from: `source` (the base) or `"adapter"`.
        pipeline: lines that use a whole or merged model through a transformers pipeline, with `{folder}` for the
            model's folder; they replace `use`.
    """
    if full or base.is_run:  # transformers cannot load a run folder as the base
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
    named = f"domain_ft.resolve({base.name!r})  # downloaded once, then cached" if base.embedded else repr(base.source)
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


def chat_loading_code(base: BaseFacts, *, full: bool) -> str:
    """Code to run in the run folder: it loads a chat model and answers a prompt.

    Args:
        base, full: see `loading_code`.
    """
    use = (
        "",
        'messages = [{"role": "user", "content": "A question."}]',
        "prompt = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        "answer = model.generate(**prompt, max_new_tokens=128)",
        'print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))',
    )
    # The tokenizer beside the adapter has the chat template.
    return loading_code(base, "AutoModelForCausalLM", full=full, use=use, tokenizer='"adapter"')
