"""The command lines of the tools beside the runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from dnis_lightning.errors import Terminated, UserError, raise_terminated


class Parser(argparse.ArgumentParser):
    """Faults on the command line end like all others: a sentence, and 1."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def add_allow(parser: argparse.ArgumentParser) -> None:
    """The option `--allow` of commands that make a model of what a folder names."""
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of your own whose classes the model is made of; may be given more than once",
    )


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """The options of commands that read a file of rows."""
    parser.add_argument("--separator", help="of the file's columns; default: by its ending and its first line")
    parser.add_argument("--columns", type=_names, help="their names, with commas between, for a file without a header")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def run_tool(work: Callable[[], None], when_stopped: str) -> int:
    """Do the work of a command; 0, or 1 after a sentence on stderr; 128 + n when signal n stops it.

    when_stopped: what to say then of what was to be written.
    """
    before = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        work()
        sys.stdout.flush()
    except UserError as fault:
        print(fault, file=sys.stderr)
        return 1
    except BrokenPipeError:  # of | head; else Python complains once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as fault:
        where = fault.filename2 or fault.filename or "standard output"
        print(f"{where}: cannot be written ({fault.strerror}); {when_stopped}", file=sys.stderr)
        return 1
    except Terminated:
        return _stopped("terminated", when_stopped, signal.SIGTERM)
    except KeyboardInterrupt:
        return _stopped("interrupted", when_stopped, signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _stopped(how: str, then: str, number: int) -> int:
    print(f"{how}; {then}", file=sys.stderr)
    return 128 + number
