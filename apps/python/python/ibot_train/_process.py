"""Which process uses the extension module."""

import os

from ._errors import IbotError

_user: int | None = None


def check_process() -> None:
    """Refuses a process that was forked from one that has used ibot: it has none of the threads that would do the work.

    Raises:
        IbotError: Naming the remedy.
    """
    global _user
    if _user is None:
        _user = os.getpid()
    if is_forked():
        raise IbotError(
            "this process was forked from one that had used ibot_train, whose threads it does not have: start processes by "
            "`spawn` (multiprocessing.get_context(\"spawn\")), or use ibot_train in the new ones alone"
        )


def is_forked() -> bool:
    """Whether this process was forked from one that had used ibot."""
    return _user is not None and os.getpid() != _user
