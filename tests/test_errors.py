from __future__ import annotations

import signal

import pytest

from dnis_lightning.errors import raise_interrupted, stop_if_interrupted


def test_an_interrupt_that_got_lost_is_raised_again_once() -> None:
    stop_if_interrupted()
    with pytest.raises(KeyboardInterrupt):
        raise_interrupted(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stop_if_interrupted()
    stop_if_interrupted()
