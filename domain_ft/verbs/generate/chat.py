"""`domain-ft generate` in the terminal: an answer that appears as it is generated, and a chat.

With a second model (--against), both models answer side by side, and each sees only its own earlier answers. If the
answers of a single model go to a pipe or a file, only their text is written.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import BinaryIO, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domain_ft.corpus.conversations.conversation import Turn
from domain_ft.corpus.readers.base import decode
from domain_ft.errors import UserError
from domain_ft.models.generation import Generated
from domain_ft.report.plain import plain
from domain_ft.terminal_text import printable
from domain_ft.verbs.generate.typewriter import Typewriter
from domain_ft.verbs.shared.chat_model import ChatModel
from domain_ft.verbs.shared.streams import bad_records

WIDEST = 100
"""The maximum width of a line in cells: longer lines are hard to read."""

_COMMAND = re.compile(r"/[a-z]+")
_HELP = "/reset starts again, /system TEXT starts again with a system prompt, /exit ends the conversation"


class AnswerScreen:
    """Shows one model's answer as it is generated, or two models' answers side by side.

    Args:
        stdout: where answers go; a terminal gets colour and word wrap, anything else plain text.
        labelled: whether answers are indented under the name of their model, as in a chat.
    """

    def __init__(self, stdout: TextIO, *, labelled: bool = False) -> None:
        self.console = Console(file=stdout, highlight=False)
        self.width = min(self.console.width, WIDEST)
        self.said = ""
        """The part of a single model's current answer that has appeared on the terminal."""
        self._stdout = stdout
        self._labelled = labelled

    def show(self, chat_models: Sequence[ChatModel], prompts: Sequence[str], name: str) -> list[Generated]:
        """Let each model answer its prompt, and show the answers.

        Args:
            chat_models: one model or two.
            prompts: the rendered prompt of each model.
            name: names the prompt in messages, and seeds its sampling.
        """
        self.said = ""
        if len(chat_models) == 1:
            return [self._show_one(chat_models[0], prompts[0], name)]
        with self.console.status("both models are answering"):
            answers = [
                chat_model.answer([prompt], [name])[0] for chat_model, prompt in zip(chat_models, prompts, strict=True)
            ]
        self._show_beside(chat_models, answers)
        return answers

    def _show_one(self, chat_model: ChatModel, prompt: str, name: str) -> Generated:
        if not self.console.is_terminal:
            answer = chat_model.answer([prompt], [name], stream=self._pass_on)[0]
            self._stdout.write("\n")
            self._stdout.flush()
            return answer
        if self._labelled:
            self.console.print(plain(chat_model.name, style="bold cyan"))
        indent = "  " if self._labelled else ""
        page = Typewriter(self._stdout, self.width, indent)

        def write(text: str) -> None:
            self.said += text
            page.write(text)

        try:
            answer = chat_model.answer([prompt], [name], stream=write)[0]
        finally:
            page.end()
        self.console.print(Text(f"{indent}{_measures(answer, chat_model)}", style="dim"))
        return answer

    def _pass_on(self, piece: str) -> None:
        self._stdout.write(piece)
        self._stdout.flush()

    def _show_beside(self, chat_models: Sequence[ChatModel], answers: Sequence[Generated]) -> None:
        table = Table(box=box.SIMPLE_HEAD, width=self.width, pad_edge=False, show_footer=True)
        for chat_model, answer in zip(chat_models, answers, strict=True):
            table.add_column(
                plain(chat_model.name, style="bold cyan"), Text(_measures(answer, chat_model), style="dim"), ratio=1
            )
        table.add_row(*(plain(answer.text) for answer in answers))
        self.console.print(table)


def _measures(answer: Generated, chat_model: ChatModel) -> str:
    """The length and speed of an answer, and whether it was cut."""
    pace = f", {answer.tokens / answer.seconds:,.1f} a second" if answer.seconds else ""
    cut = "" if answer.stopped else f"; cut at --max-new-tokens {chat_model.sampling.max_new_tokens}"
    return f"{answer.tokens:,} token{'s' if answer.tokens != 1 else ''}{pace}{cut}"


class Talk:
    """A conversation with one model or two.

    Args:
        chat_models: each sees only its own earlier answers.
        system: the system prompt, if any.
        screen: shows the answers.
    """

    def __init__(self, chat_models: Sequence[ChatModel], system: str | None, screen: AnswerScreen) -> None:
        self.chat_models, self.screen = chat_models, screen
        self.asked = 0
        self.begin(system)

    def begin(self, system: str | None) -> None:
        """Start a new conversation."""
        self.system = system
        self.turns = [[Turn("system", system)] if system else [] for _ in self.chat_models]

    def ask(self, text: str) -> None:
        """Ask a question, show the answers and remember them. After an error, nothing is remembered.

        Raises:
            UserError: a template refuses the question, or a prompt is too long.
            KeyboardInterrupt: the answer was stopped. What a single model has shown of it on a terminal is remembered.
        """
        self.asked += 1
        turns = [[*own, Turn("user", text)] for own in self.turns]
        prompts = [chat_model.prompt(own) for chat_model, own in zip(self.chat_models, turns, strict=True)]
        for chat_model, prompt in zip(self.chat_models, prompts, strict=True):
            chat_model.check(prompt)
        try:
            answers = [answer.text for answer in self.screen.show(self.chat_models, prompts, f"turn {self.asked}")]
        except KeyboardInterrupt:
            if self.screen.said:
                self._remember(turns, [self.screen.said])
            raise
        self._remember(turns, answers)

    def _remember(self, turns: Sequence[list[Turn]], answers: Sequence[str]) -> None:
        self.turns = [[*own, Turn("assistant", answer)] for own, answer in zip(turns, answers, strict=True)]


def chat(chat_models: Sequence[ChatModel], system: str | None, stdin: BinaryIO | None, stdout: TextIO) -> int:
    """Chat until the input ends or a line is /exit; returns the number of questions.

    On a terminal, ctrl-C stops an answer, an error is shown, and the chat goes on. Elsewhere ctrl-C or an error ends
    the chat.

    Args:
        chat_models: the models that answer.
        system: the system prompt, if any.
        stdin: lines of UTF-8; by default sys.stdin, which may be a terminal.
        stdout: where the answers go.

    Raises:
        UserError: a line that does not come from a terminal is not UTF-8, or cannot be asked.
    """
    if stdin is None and sys.stdin.isatty() and stdout.isatty():
        with _killable():
            return _talk_in_terminal(chat_models, system, stdout)
    talk = Talk(chat_models, system, AnswerScreen(stdout))
    for number, line in enumerate(stdin or sys.stdin.buffer, 1):
        text = (decode(line, "standard input", bad_records(None), line=number) or "").strip()
        if text and not _take(text, talk):
            break
    return talk.asked


def _talk_in_terminal(chat_models: Sequence[ChatModel], system: str | None, stdout: TextIO) -> int:
    talk = Talk(chat_models, system, AnswerScreen(stdout, labelled=True))
    console = talk.screen.console
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing and history for input)
    for chat_model in chat_models:
        size = chat_model.base.model.num_parameters() / 1e6
        console.print(plain(chat_model.name, style="bold cyan"), Text(f"{size:,.0f} M parameters", style="dim"))
    console.print(Text(f"{_HELP}\nctrl-C stops an answer, ctrl-D ends the conversation", style="dim"))
    for text in _typed(console):
        try:
            if not _take(text, talk):
                break
        except KeyboardInterrupt:
            console.print(Text("  stopped", style="dim"))
        except UserError as error:
            console.print(plain(str(error), style="red"))
    return talk.asked


def _take(line: str, talk: Talk) -> bool:
    """Handle a command or a question. Returns whether the chat goes on."""
    word, _, rest = line.partition(" ")
    if not _COMMAND.fullmatch(word):
        talk.ask(line)
    elif word == "/exit":
        return False
    elif word == "/reset":
        talk.begin(talk.system)
        print("started again", file=sys.stderr)
    elif word == "/system":
        talk.begin(rest.strip() or None)
        print(f"started again {'with this' if rest else 'without a'} system prompt", file=sys.stderr)
    else:
        print(f"there is no command {printable(word)}: {_HELP}", file=sys.stderr)
    return True


def _typed(console: Console) -> Iterator[str]:
    """The lines typed, until ctrl-D."""
    while True:
        console.print()
        try:
            text = input("you › ").strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print(Text("\nctrl-D ends the conversation", style="dim"))
            continue
        if text:
            yield text


@contextlib.contextmanager
def _killable() -> Iterator[None]:
    """Let SIGTERM end the process. Outside a chat it acts like ctrl-C, which in a chat only stops an answer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
