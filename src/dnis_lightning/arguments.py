"""The command lines of the tools beside the runs."""

from __future__ import annotations

import argparse
from typing import NoReturn

from dnis_lightning.errors import UserError


class Parser(argparse.ArgumentParser):
    """Faults on the command line end like all others: a sentence, and 1."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")
