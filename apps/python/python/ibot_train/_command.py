"""The command `ibot`."""

import signal
import sys

from . import _native


def main() -> None:
    # Ctrl-C is the command's own: Python's handler would wait for a Python line that never comes
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _native.command(["ibot", *sys.argv[1:]])
