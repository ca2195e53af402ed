"""Pre-trains vision transformers on your own images, without labels, on any GPU or the CPU.

>>> import ibot_train
>>> run = ibot_train.train("photos", "runs/first", epochs=20)   # doctest: +SKIP
>>> features = run.embedder().embed(["a.jpg", "b.jpg"])         # doctest: +SKIP
"""

import os as _os
import sys as _sys

if _sys.platform == "linux" and "XDG_RUNTIME_DIR" not in _os.environ:
    # without a desktop, libwayland, which Mesa asks for a display, would print error lines whenever GPUs are listed
    _os.environ.setdefault("WAYLAND_DISPLAY", "/no/display")

from ._embedder import Embedder, devices
from ._errors import DeviceError, FileError, IbotError, SettingError
from ._native import VERSION as __version__
from ._training import Run, train

__all__ = [
    "DeviceError",
    "Embedder",
    "FileError",
    "IbotError",
    "Run",
    "SettingError",
    "__version__",
    "devices",
    "train",
]
