"""Images and a model that are made in seconds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ibot_train

#: A transformer that a CPU trains in a second.
TINY: dict[str, Any] = {
    "preset": "stable-pretraining",
    "backend": "flex",
    "batch_size": 4,
    "method": {
        "image_size": 16,
        "projector_hidden_dim": 16,
        "projector_bottleneck_dim": 8,
        "n_cls_prototypes": 24,
        "n_patch_prototypes": 12,
        "vit": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
    },
}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten images in folders of two classes."""
    folder = tmp_path_factory.mktemp("images")
    made = []
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        path = folder / ("even" if number % 2 == 0 else "odd") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
        made.append(path)
    return made


@pytest.fixture(scope="session")
def folder(images: list[Path]) -> Path:
    return images[0].parent.parent


@pytest.fixture(scope="session")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ibot_train.Run:
    out = tmp_path_factory.mktemp("run") / "first"
    return ibot_train.train(folder, out, steps=2, progress=False, **TINY)


@pytest.fixture(scope="session")
def embedder(run: ibot_train.Run) -> ibot_train.Embedder:
    return run.embedder(backend="flex")
