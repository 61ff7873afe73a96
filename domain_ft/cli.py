"""The command line: `domain-ft VERB`. Reads the options, passes typed settings to the verb, and prints messages.

Names, defaults and help of options are defined only in `verbs/groups.py` and `verbs/VERB/settings.py`; this module
turns them into a cyclopts app. A verb's code is imported when the verb runs, so that --help and errors are fast:
nothing here imports torch.

Exit status: 0 done; 1 a bug in domain-ft, or errors found by `data check`; 2 an error that the user can fix; 130
interrupted.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import json
import os
import re
import select
import shlex
import shutil
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

from cyclopts import App, Group, Parameter
from cyclopts.exceptions import CycloptsError, UnknownCommandError

from domain_ft import __version__, checking
from domain_ft.errors import SettingsError, UserError, nearest
from domain_ft.hints import fitted
from domain_ft.terminal_text import printable
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.bench.settings import BenchSettings
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.compare.settings import CompareSettings
from domain_ft.verbs.data.settings import (
    DataCheckSettings,
    DataListSettings,
    DataMixSettings,
    DataPullSettings,
    DataSampleSettings,
    DataShowSettings,
    DataSplitSettings,
    EstimateSettings,
)
from domain_ft.verbs.embed.settings import EmbedSettings
from domain_ft.verbs.evaluate.settings import EvaluateSettings
from domain_ft.verbs.export.settings import ExportSettings
from domain_ft.verbs.generate.settings import GenerateSettings
from domain_ft.verbs.instruct.settings import InstructSettings
from domain_ft.verbs.predict.settings import PredictSettings
from domain_ft.verbs.prefer.settings import PreferSettings
from domain_ft.verbs.tag.settings import TagSettings

HELP = """Adapt a small language model to a field, and measure what it gained and forgot.

domain-ft VERB --help shows what a verb does and its options."""


@dataclass(frozen=True)
class Verb:
    """A verb: its words, its settings, and the module whose `run(settings)` does the work."""

    words: tuple[str, ...]
    settings: type[checking.Settings]
    module: str
    passes_on: bool = False
    """Whether unknown options are passed on (to a benchmark) instead of refused."""
    fails_on: str | None = None
    """The exit status is 1 if this key of the result is not empty."""


VERBS = (
    Verb(("adapt",), AdaptSettings, "adapt.run"),
    Verb(("classify",), ClassifySettings, "classify.run"),
    Verb(("tag",), TagSettings, "tag.run"),
    Verb(("instruct",), InstructSettings, "instruct.run"),
    Verb(("prefer",), PreferSettings, "prefer.run"),
    Verb(("predict",), PredictSettings, "predict.run"),
    Verb(("embed",), EmbedSettings, "embed.run"),
    Verb(("generate",), GenerateSettings, "generate.run"),
    Verb(("evaluate",), EvaluateSettings, "evaluate.run"),
    Verb(("compare",), CompareSettings, "compare.run"),
    Verb(("export",), ExportSettings, "export.run"),
    Verb(("data", "list"), DataListSettings, "data.list"),
    Verb(("data", "show"), DataShowSettings, "data.show"),
    Verb(("data", "pull"), DataPullSettings, "data.pull"),
    Verb(("data", "check"), DataCheckSettings, "data.check", fails_on="errors"),
    Verb(("data", "estimate"), EstimateSettings, "data.estimate"),
    Verb(("data", "sample"), DataSampleSettings, "data.sample"),
    Verb(("data", "split"), DataSplitSettings, "data.split"),
    Verb(("data", "mix"), DataMixSettings, "data.mix"),
    Verb(("bench",), BenchSettings, "bench.run", passes_on=True),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; the default `arguments` are those in sys.argv."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in own
    try:
        with _sigterm_as_interrupt():
            return _dispatch([word for word in own if word != "--debug"] + words[len(own) :])
    except KeyboardInterrupt as interrupt:
        if _is_main_process():
            _say("interrupted", str(interrupt) or "by ctrl-C or SIGTERM")
        return 130
    except BrokenPipeError:
        return 0 if _reader_has_left() else _bug(debug)
    except SystemExit as leaving:
        if leaving.code == 1 and _stdout_is_null():  # how rich exits when the reader of standard output is gone
            return 0
        raise
    except Exception as error:
        message = _fixable(error)
        if message is None:
            return _bug(debug)
        if debug:
            traceback.print_exc()
        _say("error", message)
        return 2


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM like ctrl-C, so that incomplete files are removed. The training loop has its own handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _dispatch(words: list[str]) -> int:
    verbs: dict[Callable[..., Any], Verb] = {}
    app = _app(verbs)
    command, given, unused, problems = _parse(app, _with_dashes(_with_current_names(words)))
    verb = verbs.get(command)
    if verb is None:  # --help, --version, or a group without a verb: cyclopts handles it
        command(**given)
        return 0
    chosen = _settings(verb, given, unused, problems)
    _announce(chosen)
    run = importlib.import_module(f"domain_ft.verbs.{verb.module}").run
    with fitted(_flags(verb), {" ".join(verb.words): _flags(verb) for verb in VERBS}):
        result = _run(run, chosen)
    _destroy_process_group()
    return 1 if verb.fails_on and result.get(verb.fails_on) else 0


def _run(run: Callable[[checking.Settings], dict[str, Any]], chosen: checking.Settings) -> dict[str, Any]:
    """Run a verb, and print its result with --json."""
    if not getattr(chosen, "json", False):
        result = run(chosen)
        sys.stdout.flush()
    else:
        # Anything that a library prints goes to standard error, so that standard output has only the result.
        with contextlib.redirect_stdout(sys.stderr):
            result = run(chosen)
        if _is_main_process():
            print(json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False), flush=True)
    return result


def _announce(chosen: checking.Settings) -> None:
    """Print the model that is about to be loaded: importing torch and reading weights can take a minute."""
    model = getattr(chosen, "model", None)
    if not model or getattr(chosen, "quiet", False) or not _is_main_process():
        return
    names = ", ".join(map(str, model)) if isinstance(model, (list, tuple)) else str(model)
    print(f"loading {printable(names)}", file=sys.stderr, flush=True)


def _is_main_process() -> bool:
    """Whether this process prints: it is the only one, or rank 0 under torchrun."""
    return os.environ.get("RANK", "0") == "0"


# --- From settings to a command line ----------------------------------------------------------------------------------


def _app(verbs: dict[Callable[..., Any], Verb]) -> App:
    """The app of all verbs. Adds to `verbs` the function that represents each."""
    app = App(name="domain-ft", help=HELP, version=__version__, help_format="plaintext")
    groups: dict[str, App] = {}
    for place, verb in enumerate(VERBS):
        parent = app
        if len(verb.words) > 1:
            word = verb.words[0]
            if word not in groups:
                groups[word] = App(
                    name=word,
                    help="List, inspect, check and prepare data, and estimate the cost of training on it.",
                    sort_key=place,
                )
                app.command(groups[word])
            parent = groups[word]
        function = _command(verb)
        verbs[function] = verb
        parent.command(function, name=verb.words[-1], help=_paragraphs(verb.settings), sort_key=place)
    return app


def _paragraphs(cls: type[checking.Settings]) -> str:
    """A docstring with one line per paragraph, for cyclopts to wrap."""
    paragraphs = (inspect.getdoc(cls) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _command(verb: Verb) -> Callable[..., Any]:
    """A function whose signature is the verb's options. It only represents the verb, and is never called."""

    def command(**_: Any) -> None:
        raise AssertionError

    shown = [o for o in checking.options(verb.settings) if not (verb.passes_on and o.name == "arguments")]
    order = sorted(dict.fromkeys(option.group for option in shown), key=_panel_place)
    parameters = [
        _parameter(
            option, Group(option.group, sort_key=order.index(option.group)), option.name in verb.settings.positional
        )
        for option in shown
    ]
    parameters += [_DEBUG] if verb.passes_on else [_CONFIG, _SET, _DEBUG]
    command.__signature__ = inspect.Signature(sorted(parameters, key=lambda p: p.kind))  # type: ignore[attr-defined]
    return command


_LAST_PANELS = ("Model", "Training", "Measuring", "Machine", "Run folder", "Screen")
"""The panels of --help that follow those of a verb's input, in this order."""


def _panel_place(group: str) -> int:
    return _LAST_PANELS.index(group) if group in _LAST_PANELS else -1


def _parameter(option: checking.Option, group: Group, positional: bool) -> inspect.Parameter:
    """The cyclopts parameter of a setting. Values stay raw: all settings are checked together later."""
    hint: Any = Literal[option.choices] if option.choices else option.kind
    if option.many:
        hint = tuple.__class_getitem__((hint, ...))
    marks = Parameter(
        name=option.flag,
        help=f"{option.help} Required." if option.required else option.help,
        group=group,
        negative=None if _has_negative(option) else (),
        show_default=option.kind is not bool and option.default not in (checking.REQUIRED, None, ()),
        required=False,
        converter=_keep,
        allow_repeating=True,  # the last value is used
    )
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if positional else inspect.Parameter.KEYWORD_ONLY
    default = None if option.required else option.default
    return inspect.Parameter(option.name, kind, default=default, annotation=Annotated[hint, marks, _Raw()])


class _Raw:
    """Keeps pydantic from validating raw values: once pydantic is imported, cyclopts passes every option to it."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> dict[str, str]:
        return {"type": "any"}


def _has_negative(option: checking.Option) -> bool:
    """Whether an option has a `--no-` form: it is a switch that is on by default."""
    return option.default is True


def _negative(option: checking.Option) -> str:
    return f"--no-{option.flag[2:]}"


def _keep(_: Any, tokens: Sequence[Any]) -> list[tuple[str | None, str]]:
    """The raw values of an option, each with the keyword as typed (None if positional)."""
    return [(token.keyword, token.value) for token in tokens]


def _common(name: str, hint: Any, default: Any, help_text: str) -> inspect.Parameter:
    marks = Parameter(
        name=f"--{name}", help=help_text, group=Group("Every verb", sort_key=100), negative=(), show_default=False
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, marks])


_CONFIG = _common(
    "config",
    tuple[Path, ...],
    (),
    "A TOML file of settings, such as a run's config.toml. Options on the command line override it.",
)
_SET = _common("set", tuple[str, ...], (), "A setting as KEY=VALUE, with its name as in a TOML file.")
_DEBUG = _common("debug", bool, False, "Show where in the code an error came from.")


# --- From a command line to settings ----------------------------------------------------------------------------------

_OPTION = re.compile(r"--[A-Za-z][\w-]*(=.*)?", re.DOTALL)


def _with_current_names(words: Sequence[str]) -> list[str]:
    """Replace former names of options by their current ones, with a note to the user."""
    verb = _verb_of(words)
    former = {} if verb is None else checking.former_names(verb.settings)
    current = []
    for word in words:
        flag, equals, value = word.partition("=")
        name = former.get(flag[2:].replace("-", "_")) if flag.startswith("--") else None
        if name:
            now = f"--{name.replace('_', '-')}"
            print(
                f"note: {flag} is now {now}; the old name will be removed in the next version",
                file=sys.stderr,
                flush=True,
            )
            word = f"{now}{equals}{value}"
        current.append(word)
    return current


def _verb_of(words: Sequence[str]) -> Verb | None:
    """The verb at the start of a command line, if there is one."""
    return next((verb for verb in VERBS if tuple(words[: len(verb.words)]) == verb.words), None)


def _with_dashes(words: Sequence[str]) -> list[str]:
    """Join every value that starts with a dash to its option: `--input -` becomes `--input=-`.

    cyclopts would read such a value as an option. Here only two dashes and a name are an option, so `--prompt "- an
    item"` has a value, and `--prompt --system x` has none. Other words that start with a dash are joined to the
    positional option, if the verb has one.
    """
    verb = _verb_of(words)
    if verb is None or verb.passes_on:
        return list(words)
    known = checking.options(verb.settings)
    takes_value = {option.flag for option in known if option.kind is not bool} | {"--config", "--set"}
    positional = next((option.flag for option in known if option.name in verb.settings.positional), None)
    joined: list[str] = list(words[: len(verb.words)])
    rest = list(words[len(verb.words) :])
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*joined, word, *rest]
        following = rest[0] if rest else ""
        if word in takes_value and following.startswith("-") and not _OPTION.fullmatch(following) and following != "--":
            joined.append(f"{word}={rest.pop(0)}")
        elif word in takes_value and following and not following.startswith("-"):
            joined += [word, rest.pop(0)]
        elif positional and word.startswith("-") and word != "-h" and not _OPTION.fullmatch(word):
            joined.append(f"{positional}={word}")
        else:
            joined.append(word)
    return joined


def _parse(
    app: App, words: Sequence[str]
) -> tuple[Callable[..., Any], dict[str, Any], list[str], dict[str | None, str]]:
    """The function of the verb, the raw values of its options, the words left over, and the problems by option.

    cyclopts stops at the first error (an option without a value). To report all errors at once, the faulty word is
    noted and removed, and the rest is parsed again.
    """
    try:
        command, bound, unused, _ = app.parse_known_args(words)
    except UnknownCommandError as error:
        raise _unknown_verb(words) from error
    except CycloptsError as error:
        keyword = _keyword(error)
        places = [place for place, word in enumerate(words) if word.partition("=")[0] == keyword]
        if not places:
            raise SettingsError(str(error)) from error
        word = words[places[-1]]
        problem = f"{word}: must be true or false" if "=" in word else f"{word}: needs a value"
        rest = [*words[: places[-1]], *words[places[-1] + 1 :]]
        command, given, unused, problems = _parse(app, rest)
        return command, given, unused, {keyword: problem, **problems}
    return command, dict(bound.arguments), unused, {}


def _keyword(error: CycloptsError) -> str | None:
    token = getattr(error, "token", None)
    if token is not None and token.keyword:
        return str(token.keyword)
    return error.argument.name if error.argument is not None else None


def _unknown_verb(words: Sequence[str]) -> SettingsError:
    inside = words[0] in {verb.words[0] for verb in VERBS if len(verb.words) > 1}
    word, chain = (words[1], f"domain-ft {words[0]}") if inside else (words[0], "domain-ft")
    if word.startswith("-"):
        return SettingsError(
            f"{word}: a verb must come first", fix=f"{chain} VERB {word}; {chain} --help lists the verbs"
        )
    known = [verb.words[1] for verb in VERBS if verb.words[0] == words[0]] if inside else [v.words[0] for v in VERBS]
    return SettingsError(f"{chain} has no verb {word!r}", fix=nearest(word, known))


def _settings(
    verb: Verb, given: Mapping[str, Any], unused: Sequence[str], faults: Mapping[str | None, str]
) -> checking.Settings:
    """The verb's settings: defaults, then --config files, then --set, then options."""
    cls = verb.settings
    files = [checking.read_toml(cls, path) for path in given.get("config", ())]
    read = [*files, checking.read_assignments(cls, given.get("set", ()))]
    layers = [*(layer for layer, _ in read), _typed(cls, given)]
    problems = [*faults.values(), *(problem for _, found in read for problem in found)]
    if verb.passes_on:
        layers.append({"arguments": checking.Given(tuple(unused), " ".join(unused))})
    merged = checking.merge(cls, layers)
    if not verb.passes_on:
        absent = [o.flag for o in checking.options(cls) if o.required and o.name not in merged]
        problems += _left_over(verb, unused, absent)
    unread = any(found and not layer for layer, found in files)

    def missing(option: checking.Option) -> str | None:
        """The message; None if the value may be in an unreadable file, or if its option has been reported already."""
        if unread or option.flag in faults:
            return None
        if option.name not in cls.positional:
            return f"{option.flag} is required"
        word = option.name.upper()
        return f"{word} is required: domain-ft {' '.join(verb.words)} {word}{' ...' if option.many else ''}"

    return checking.build(cls, merged, problems, missing=missing)


def _destroy_process_group() -> None:
    """Destroy the process group after a run of several processes, because torch warns if one exists at exit.

    It is not destroyed after an error, since that would wait for the other processes.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_initialized():
        distributed.destroy_process_group()


def _typed(cls: type[checking.Settings], given: Mapping[str, Any]) -> dict[str, checking.Given]:
    """The settings among the options that were typed, as raw values."""
    layer = {}
    for option in checking.options(cls):
        if option.name not in given:
            continue
        kept = given[option.name]
        if isinstance(kept, bool):
            layer[option.name] = checking.Given(kept, option.flag if kept else _negative(option))
        else:
            spelled = " ".join(f"{keyword or ''} {shlex.quote(value)}".strip() for keyword, value in kept)
            values = [value for _, value in kept]
            layer[option.name] = checking.Given(values if option.many else values[-1], spelled, text=True)
    return layer


_USUALLY_MEANT = ("--corpus", "--train", "--data", "--input", "--prompt", "--model")
"""If no required option is missing, a bare word is probably the value of the first of these that the verb has."""


def _flags(verb: Verb) -> list[str]:
    """The options of a verb, as typed."""
    flags = [option.flag for option in checking.options(verb.settings)]
    flags += [_negative(option) for option in checking.options(verb.settings) if _has_negative(option)]
    return [*flags, "--config", "--set", "--debug", "--help"]


def _left_over(verb: Verb, words: Sequence[str], absent: Sequence[str]) -> list[str]:
    """Messages for words that belong to no option. The word after an unknown option is read as its value.

    Args:
        absent: the required options that are missing; a bare word is suggested as the value of the first.
    """
    flags = _flags(verb)
    problems = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            usual = [flag for flag in _USUALLY_MEANT if flag in flags]
            meant = next(iter([*absent, *usual]), None)
            hint = f"; did you mean {meant} {word}?" if meant and not verb.settings.positional else ""
            problems.append(f"{word}: belongs to no option{hint}")
            continue
        name = word.partition("=")[0]
        if "=" not in word and rest and not rest[0].startswith("-"):
            word = f"{word} {rest.pop(0)}"
        close = difflib.get_close_matches(name, flags, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else f"see domain-ft {' '.join(verb.words)} --help"
        problems.append(f"{word}: there is no such option; {hint}")
    return problems


# --- Messages to the user ---------------------------------------------------------------------------------------------


def _fixable(error: Exception) -> str | None:
    """The message of an error that the user can fix, such as a full disk; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    from domain_ft.storage import storage_error  # imports filelock, which nothing else here needs

    explained = storage_error(error)
    return None if explained is None else str(explained)


def _bug(debug: bool) -> int:
    """Report the current exception as a bug in domain-ft."""
    if debug:
        traceback.print_exc()
    error = sys.exc_info()[1]
    hint = "" if debug else "\n  do:    run it again with --debug to see where, and report it"
    _say("error", f"this is a bug in domain-ft: {type(error).__name__}: {error}{hint}")
    return 1


def _say(label: str, message: str) -> None:
    """Print a message to standard error: coloured and wrapped on a terminal, otherwise plain."""
    text = f"{label}: {printable(message)}"
    if not sys.stderr.isatty():
        try:
            print(text, file=sys.stderr, flush=True)
        except BrokenPipeError:  # standard error was closed
            _reader_has_left()
        return
    from rich.console import Console
    from rich.text import Text

    width = min(shutil.get_terminal_size().columns, 100)
    styled = Text(_wrap(text, width))
    styled.stylize("bold red", 0, len(label) + 1)
    Console(stderr=True, highlight=False).print(styled, soft_wrap=True)


def _wrap(text: str, width: int) -> str:
    """Wrap each line with a hanging indent after a list number or a label."""
    wrapped = []
    for line in text.splitlines():
        lead = re.match(r" *(\d+\. |where: |do:    )?", line)
        hanging = " " * (lead.end() if lead else 0)
        wrapped += textwrap.wrap(
            line, width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return "\n".join(wrapped)


def _reader_has_left() -> bool:
    """Whether the reader of standard output or standard error is gone (`| head`).

    Such a stream is redirected to /dev/null, so that Python's flush at exit does not fail. The operating system
    is asked: a flush would prove nothing, because Python drops what it could not write, and a second flush may succeed.
    """
    left = [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
    for stream in left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(left)


def _is_unread(stream: TextIO) -> bool:
    try:
        asked = select.poll()
        asked.register(stream.fileno(), 0)  # errors are always reported
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))
    except (OSError, ValueError, AttributeError):  # no file descriptor, as in a test; or no poll, as on Windows
        return False


def _stdout_is_null() -> bool:
    try:
        return os.path.samestat(os.fstat(sys.stdout.fileno()), Path(os.devnull).stat())
    except (OSError, ValueError):  # no file descriptor, as in a test
        return False
