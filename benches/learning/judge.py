"""Judges a backbone by `ibot knn`, `ibot probe` and `ibot probe --patches`; all peers by the same commands.

A backbone is a safetensors file under timm's names, which becomes a folder as transformers has them: ibot takes its shape and
preprocessing from there. LayerScale is multiplied into the layer before it.

    python judge.py IMAGES

checks the way there: features and k-NN of an untrained transformer by ibot, and by timm, torchvision and numpy.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from model import MEAN, SHAPES, STD
from safetensors.numpy import load_file, save_file

IBOT = Path(os.environ.get("IBOT", Path(__file__).resolve().parents[2] / "target" / "release" / "ibot"))
RESIZED = 256 / 224
NEIGHBORS = (1, 5, 20)
# as the first rows of results.jsonl were made, so that all compare; ibot's default goes up to 1000
STRENGTHS = "0.0001,0.001,0.01,0.1,1"
# timm's name: transformers' name, of the tensors of a block and of the others
BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
OTHERS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}


def transformers_folder(backbone: Path, model: str, folder: Path) -> Path:
    """A timm file as a folder of transformers; each tensor of it is needed."""
    shape, timm = SHAPES[model], load_file(backbone)
    named = {theirs: timm.pop(ours) for ours, theirs in OTHERS.items()}
    for at in range(shape["depth"]):
        start, to = f"blocks.{at}.", f"encoder.layer.{at}."
        for scale, layer in (("ls1.gamma", "attn.proj"), ("ls2.gamma", "mlp.fc2")):
            if start + scale in timm:
                gamma = timm.pop(start + scale)
                timm[f"{start}{layer}.weight"] = gamma[:, None] * timm[f"{start}{layer}.weight"]
                timm[f"{start}{layer}.bias"] = gamma * timm[f"{start}{layer}.bias"]
        for kind in ("weight", "bias"):
            qkv = timm.pop(f"{start}attn.qkv.{kind}")
            for part, values in zip(("query", "key", "value"), qkv.reshape(3, -1, *qkv.shape[1:])):
                named[f"{to}attention.attention.{part}.{kind}"] = values.copy()
            for ours, theirs in BLOCK.items():
                named[f"{to}{theirs}.{kind}"] = timm.pop(f"{start}{ours}.{kind}")
    # MaskedVisionTransformerTIMM and iBOT may keep theirs beside the transformer
    timm.pop("mask_token", None)
    if timm:
        raise SystemExit(f"{backbone}: no place for {', '.join(timm)}")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    side, width = shape["img_size"], shape["embed_dim"]
    config = {
        "model_type": "vit", "architectures": ["ViTModel"], "hidden_size": width, "intermediate_size": 4 * width,
        "num_hidden_layers": shape["depth"], "num_attention_heads": shape["num_heads"], "hidden_act": "gelu", "qkv_bias": True,
        "layer_norm_eps": 1e-6, "image_size": side, "patch_size": shape["patch_size"], "num_channels": 3,
    }  # fmt: skip
    processor = {
        "image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": int(RESIZED * side)},
        "resample": 3, "do_center_crop": True, "crop_size": {"height": side, "width": side}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": MEAN, "image_std": STD, "do_convert_rgb": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def ibot(command: str, model: Path, *arguments: object) -> dict:
    line = [IBOT, command, "--model", model, "--backend", "flex", "--json", *arguments]
    done = subprocess.run([str(part) for part in line], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, line))}\n{done.stderr}")
    return json.loads(done.stdout)


def parts(images: Path):
    return ("--data", images / "train", "--val", images / "val")


def knn(model: Path, images: Path) -> dict:
    """Top-1 of k-NN by the class token, for each number of neighbors."""
    rows = ibot("knn", model, *parts(images), "--k", ",".join(map(str, NEIGHBORS)))["rows"]
    return {f"knn-{number}": row["top1"] for number, row in zip(NEIGHBORS, rows)}


def probe(model: Path, images: Path) -> float:
    """Top-1 of the linear probe of the last block's class token."""
    return ibot("probe", model, *parts(images), "--layers", 1, "--strengths", STRENGTHS)["rows"][0]["top1"]


def patches(model: Path, images: Path) -> float:
    """Mean IoU of figure and ground by the last block's patches; truth is the images' alpha channel."""
    masks = ("--patches", "--masks", "alpha", "--patches-per-image", 16)
    return ibot("probe", model, *parts(images), "--layers", 1, *masks)["rows"][0]["mean_iou"]


def check(images: Path) -> None:
    """ibot's k-NN and features of an untrained transformer beside those in Python."""
    import numpy
    import torch
    from model import timm_model
    from peers import on_white
    from PIL import Image
    from safetensors.torch import save_file as save_torch
    from torchvision.transforms import v2

    torch.manual_seed(0)
    vit = timm_model("vit-ti-8").eval()
    side = vit.patch_embed.img_size[0]
    resize = v2.Resize(int(RESIZED * side), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    fit = v2.Compose([resize, v2.CenterCrop(side), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def features(part: str):
        paths = sorted((images / part).rglob("*.png"))
        views = torch.stack([fit(on_white(Image.open(path))) for path in paths])
        with torch.no_grad():
            found = torch.cat([vit(batch) for batch in views.split(64)]).numpy()
        return found / numpy.linalg.norm(found, axis=1, keepdims=True), [path.parent.name for path in paths]

    bank, labels = features("train")
    asked, truth = features("val")
    names = sorted(set(labels))
    votes_of = numpy.eye(len(names))[[names.index(label) for label in labels]]
    similarity = asked @ bank.T
    with tempfile.TemporaryDirectory() as folder:
        save_torch(vit.state_dict(), Path(folder) / "timm.safetensors")
        model = transformers_folder(Path(folder) / "timm.safetensors", "vit-ti-8", Path(folder) / "model")
        found = knn(model, images)
        table = Path(folder) / "features.npy"
        command = [IBOT, "embed", "--model", model, "--backend", "flex", "--data", images / "val", "--out", table]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        ours = numpy.load(table)
    ours /= numpy.linalg.norm(ours, axis=1, keepdims=True)
    print(f"features: least cosine {(ours * asked).sum(1).min():.6f}")
    for number in NEIGHBORS:
        nearest = numpy.argsort(-similarity, axis=1)[:, :number]
        weights = numpy.exp(numpy.take_along_axis(similarity, nearest, 1) / 0.07)
        guess = (weights[:, :, None] * votes_of[nearest]).sum(1).argmax(1)
        right = numpy.mean([names[at] == label for at, label in zip(guess, truth)])
        print(f"k = {number}: ibot {100 * found[f'knn-{number}']:.2f} %, Python {100 * right:.2f} %")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    check(Path(sys.argv[1]))
