"""Finds keys, tokens and passwords with the detectors of `detect-secrets` and a few more patterns.

The detectors are made for code. In prose, most of their guesses by entropy would be wrong. So entropy is used only for
quoted strings, and a password outside an address is reported only if it mixes letters and digits.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterator
from typing import Any

# Lines without a match are skipped, because a search tries about forty slow regular expressions.
_WORTH_A_LOOK = re.compile(
    r"[A-Za-z0-9_+/=.~-]{20}|://[^\s/@]+:[^\s@]+@|[0-9]{8,10}:[A-Za-z0-9_-]{20}"
    r"|(?i:passw|passphrase|passcode|pwd|secret|token|api.?key|contraseña|senha|mot de passe)"
    r"|パスワード|密码|密碼|비밀번호"
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)", re.DOTALL)
_TOKENS = (
    (re.compile(r"(?<![A-Za-z0-9_])sk-[A-Za-z0-9_-]{20,}"), "an API key"),
    (re.compile(r"(?<![A-Za-z0-9_])AIza[0-9A-Za-z_-]{35}"), "a Google API key"),
    (re.compile(r"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{30,}"), "a Hugging Face token"),
    (re.compile(r"(?<![A-Za-z0-9_])github_pat_[A-Za-z0-9_]{22,}"), "a GitHub token"),
    (re.compile(r"(?<![A-Za-z0-9_])eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"), "a JSON web token"),
)
_PASSWORD = re.compile(
    r"(?:(?i:pass(?:word|wd|phrase|wort|code)|(?<![A-Za-z])pwd|(?<![A-Za-z])secret(?:[ _-]?(?:access[ _-]?)?key)?"
    r"|api[ _-]?key|(?:access|auth)[ _-]?token|contraseña|senha|mot de passe)|パスワード|密码|密碼|비밀번호)"
    r"[\"'`]?\s*(?:[:=：＝]|(?i:is|ist|est|es|é)\b|は|是)\s*[\"'`「]?(?P<value>[!-~]{6,})"
)
_EDGES = "\"'`.,;:!?)]}>"  # punctuation after a password
_SHORTEST = 8  # minimum characters of the group that is the secret

# Detectors of detect-secrets: module, class, and what it finds. Not used: those for public IP addresses, hexadecimal
# hashes, SoftLayer, and Artifactory, which also matches words in capitals. The patterns above replace three others.
_DETECTORS = (
    ("aws", "AWSKeyDetector", "an AWS key"),
    ("azure_storage_key", "AzureStorageKeyDetector", "an Azure storage key"),
    ("basic_auth", "BasicAuthDetector", "a password in an address"),
    ("cloudant", "CloudantDetector", "a Cloudant key"),
    ("discord", "DiscordBotTokenDetector", "a Discord token"),
    ("github_token", "GitHubTokenDetector", "a GitHub token"),
    ("gitlab_token", "GitLabTokenDetector", "a GitLab token"),
    ("ibm_cloud_iam", "IbmCloudIamDetector", "an IBM Cloud key"),
    ("ibm_cos_hmac", "IbmCosHmacDetector", "an IBM storage key"),
    ("mailchimp", "MailchimpDetector", "a Mailchimp key"),
    ("npm", "NpmDetector", "an npm token"),
    ("openai", "OpenAIDetector", "an OpenAI key"),
    ("pypi_token", "PypiTokenDetector", "a PyPI token"),
    ("sendgrid", "SendGridDetector", "a SendGrid key"),
    ("slack", "SlackDetector", "a Slack token"),
    ("square_oauth", "SquareOAuthDetector", "a Square secret"),
    ("stripe", "StripeDetector", "a Stripe key"),
    ("telegram_token", "TelegramBotTokenDetector", "a Telegram token"),
    ("twilio", "TwilioKeyDetector", "a Twilio key"),
)
_BY_ENTROPY = ("high_entropy_strings", "Base64HighEntropyString", "a quoted string as random as a key")


def find_secrets(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, description) of each secret in a text. Some may overlap."""
    if "PRIVATE KEY" in text:
        for match in _PRIVATE_KEY.finditer(text):
            yield *match.span(), "a private key"
    start = 0
    for line in text.split("\n"):
        if _WORTH_A_LOOK.search(line):
            for first, end, what in _in_line(line):
                yield start + first, start + end, what
        start += len(line) + 1


def _in_line(line: str) -> Iterator[tuple[int, int, str]]:
    for pattern, what in _patterns():
        for match in pattern.finditer(line):
            group = _secret_group(match)
            if _is_random(match[group]) or (match[0].startswith("://") and not _is_placeholder(match[group])):
                yield *match.span(group), what
    for match in _PASSWORD.finditer(line):
        value = match["value"].rstrip(_EDGES)
        if len(value) >= 6 and _is_random(value):
            yield match.start("value"), match.start("value") + len(value), "a password or key"
    by_entropy = _detector(*_BY_ENTROPY[:2])
    for match in by_entropy.regex.finditer(line):
        value = match[2]
        if _is_random(value) and by_entropy.calculate_shannon_entropy(value) > by_entropy.entropy_limit:
            yield *match.span(2), _BY_ENTROPY[2]


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """(pattern, description) of each kind of secret."""
    known = [(pattern, what) for module, name, what in _DETECTORS for pattern in _detector(module, name).denylist]
    return (*_TOKENS, *known)


@functools.cache
def _detector(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name)()


def _secret_group(match: re.Match[str]) -> int:
    """The number of the group that is the secret: the longest, or 0 (the whole match) if all are too short.

    A password in an address may be short.
    """
    groups = [number for number, value in enumerate(match.groups(), 1) if value]
    longest = max(groups, key=lambda number: len(match[number]), default=0)
    return longest if match[0].startswith("://") or len(match[longest]) >= _SHORTEST else 0


def _is_random(value: str) -> bool:
    """Whether a value has letters and digits, but no space, and is no sequence, placeholder or UUID."""
    from detect_secrets.filters.heuristic import is_potential_uuid, is_sequential_string

    mixed = any(map(str.isalpha, value)) and any(map(str.isdigit, value)) and " " not in value
    return mixed and not _is_placeholder(value) and not is_sequential_string(value) and not is_potential_uuid(value)


def _is_placeholder(value: str) -> bool:
    """Whether a value is only a placeholder for a secret: <token>, {key}, ${KEY}, ****, xxxx, [SECRET]."""
    return value[0] in "<{$[%" or len(set(value.lower())) <= 2
