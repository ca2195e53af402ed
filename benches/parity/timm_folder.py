"""Compares `ibot embed` with timm on a folder that timm writes, each with its own preparation of the images.

    python -m venv venv
    venv/bin/pip install -r benches/parity/requirements.txt
    venv/bin/python benches/parity/timm_folder.py IBOT IMAGES NAME [--weights FILE] [--image-size 224]

NAME is a model of timm, such as vit_small_patch14_dinov2.lvd142m; FILE has its weights in safetensors, for machines without the
hub. IMAGES is a folder of images without transparency.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf


def main(flags):
    arguments = {"num_classes": 0, "img_size": flags.image_size}
    model = timm.create_model(flags.name, pretrained=flags.weights is None, **arguments)
    if flags.weights:
        weights = load_file(flags.weights)
        weights["pos_embed"] = timm.layers.resample_abs_pos_embed(
            weights["pos_embed"], list(model.patch_embed.grid_size), num_prefix_tokens=model.num_prefix_tokens
        )
        model.load_state_dict(weights)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        save_for_hf(model, folder / "saved", model_args=arguments, safe_serialization=True)
        features = folder / "features.npy"
        on = ["--model", folder / "saved", "--backend", "flex", "--out", features]
        subprocess.run([flags.ibot, "embed", flags.images, *on], check=True)
        lines = (folder / "features.paths.csv").read_text().splitlines()[1:]
        paths = [line.rsplit(",", 1)[0] for line in lines]
        # as timm itself opens what it wrote
        model = timm.create_model(f"local-dir:{folder / 'saved'}", pretrained=True).eval()
        found = numpy.load(features)
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    with torch.no_grad():
        expected = [model(transform(Image.open(path).convert("RGB"))[None])[0].numpy() for path in paths]
    expected = numpy.stack(expected)
    norms = numpy.linalg.norm(expected, axis=1) * numpy.linalg.norm(found, axis=1)
    cosines = (expected * found).sum(1) / norms
    difference = numpy.abs(expected - found).max() / numpy.abs(expected).max()
    print(f"{len(paths)} images: features within {difference:.1e} of the largest, 1 - cosine at most {1 - cosines.min():.1e}")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("ibot", type=Path)
parser.add_argument("images", type=Path)
parser.add_argument("name")
parser.add_argument("--weights", type=Path)
parser.add_argument("--image-size", type=int, default=224)
main(parser.parse_args())
