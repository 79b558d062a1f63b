"""Hydra's explanations of a wrong option or key, each in one sentence that says what to do."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from dnis_lightning.paths import config_dir

_EXTRAS = ("joblib", "submitit", "ray", "optuna")  # as their plugins' options begin
_NO_NAME = r"null|true|false|[-+]?[\d.]+(e[-+]?\d+)?"
"""What Hydra reads as something other than text."""


def reword(message: str, keys: str = "--cfg job") -> str:
    """The sentence for a message of Hydra's; what is not known here is passed on in one line. keys: what shows them."""
    return sentence_for(message, keys) or _one_line(message)


def sentence_for(message: str, keys: str = "--cfg job") -> str | None:
    """The same, but None for what is not known here."""
    text = _one_line(message)
    if match := re.search(rf"Could not load 'hydra/(launcher|sweeper)/({'|'.join(_EXTRAS)})", text):
        return f"this hydra/{match[1]} needs what is not installed: pip install '.[{match[2]}]'"
    if match := re.search(
        r"Could not (?:find|load) '([^']+)/([^'/]*)'.*?Available options in '[^']+': (.*?)(?: Config search path|$)",
        text,
    ):
        group, option, options = match.groups()
        known = [name for name in options.split() if not name.startswith("_")]
        return f"{group}={option}: there is no such option; choose one of {', '.join(known)}"
    if match := re.search(r"Could not override '([^']+)'", text):
        return f"{match[1]}: there is no such key; {keys} shows those there are{_in_a_sweep(match[1])}"
    if match := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"{match[1]}: the key is there already; write it without +"
    if text.startswith("Config group override must be") and (wrong := list(_no_options())):
        return "; ".join(wrong)
    return None


def _one_line(message: str) -> str:
    return " ".join(line.strip() for line in message.splitlines() if line.strip())


def _no_options() -> Iterator[str]:
    """Of the arguments those that give a group what is no name, as `model=null` does."""
    for argument in sys.argv[1:]:
        group, _, values = argument.lstrip("+").partition("=")
        wrong = [value for value in values.split(",") if re.fullmatch(_NO_NAME, value, re.IGNORECASE)]
        if wrong and group.startswith("hydra/"):  # whose options are those of Hydra and of its plugins, too
            yield f"{group}={wrong[0]}: there is no such option; leave out {group}= to have the default"
        elif wrong and (known := sorted(path.stem for path in (config_dir() / group).glob("[!_]*.yaml"))):
            yield f"{group}={wrong[0]}: there is no such option; choose one of {', '.join(known)}"


def _in_a_sweep(key: str) -> str:
    """Hydra looks for the key in the group's default option before it sweeps over the group."""
    group = key.split(".")[0]
    swept = any(argument.startswith(f"{group}=") and "," in argument for argument in sys.argv)
    return f"; if the options of {group}= that are swept over have it, write ++{key}=" if swept else ""


def message_of(fault: BaseException) -> str:
    """What an error says, or where it says nothing, what its cause says."""
    cause = fault.__cause__ or fault.__context__
    return str(fault) or (message_of(cause) if cause else type(fault).__name__)
