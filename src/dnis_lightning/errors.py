"""Errors that a user can mend: each is a sentence that names what was found, what was expected and what to do."""


class UserError(Exception):
    """A fault outside this package. The command line prints its text without a traceback and exits with 1."""


class ConfigError(UserError):
    """The configuration cannot be run."""


class DataError(UserError):
    """A data file is absent, damaged or not what it is said to be."""


class NoRows(DataError):
    """A data file is whole, but has no rows."""


class RunError(UserError):
    """A run folder or a checkpoint cannot be used."""


class Terminated(BaseException):
    """SIGTERM, as a scheduler sends it. No Exception, so that nobody takes it for a failure of a job."""


def raise_terminated(number: int, frame: object) -> None:
    """What a process does on SIGTERM: files under way are removed on the way out."""
    raise Terminated


_interrupts: list[int] = []


def raise_interrupted(number: int, frame: object) -> None:
    """What a process does on SIGINT. It is noted, too: Python drops what is raised while an object is finalised."""
    _interrupts.append(number)
    raise KeyboardInterrupt


def stop_if_interrupted() -> None:
    """Raise KeyboardInterrupt if there was one that got lost."""
    if _interrupts:
        _interrupts.clear()
        raise KeyboardInterrupt
