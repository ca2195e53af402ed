"""What `ibot` leaves opens elsewhere, and computes the same there: run folders in timm and transformers, classifiers in
onnxruntime.

    python -m venv venv
    venv/bin/pip install -r benches/parity/requirements.txt
    ibot train --data IMAGES --out RUN --encoder vit_tiny_patch16_224 --steps 2
    ibot finetune --model RUN --data IMAGES --out CLASSIFIER --epochs 1
    venv/bin/python benches/parity/run_folder.py IBOT IMAGES RUN CLASSIFIER

IMAGES is a folder of classes. Images of 256 x 256 pixels need no resizing for an input of 224: all agree to 1e-4 of the
largest value then. Others are resized by Pillow there and by fast_image_resize here, which round differently: to a few
hundredths. Images of up to 96 pixels that are square are cropped there and not here, and do not agree.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import onnxruntime
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from transformers import AutoImageProcessor, AutoModel

TOLERANCE = 0.05


def compare(what, found, expected):
    """Prints the largest difference by the largest value."""
    found, expected = (numpy.asarray(values, numpy.float64) for values in (found, expected))
    assert found.shape == expected.shape, (what, found.shape, expected.shape)
    difference = numpy.abs(found - expected).max() / numpy.abs(expected).max()
    print(f"{what}: {len(found)} images within {difference:.1e}")
    assert difference < TOLERANCE, what


def by_timm(folder, paths):
    """Outputs of `timm.create_model` with its own transform."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    with torch.no_grad():
        return model(images).numpy(), model.pretrained_cfg


def by_transformers(folder, paths):
    """The feature that `AutoModel` pools, with its own processor."""
    processor, model = AutoImageProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    features = []
    for path in paths:
        images = processor(Image.open(path).convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            features.append(model(**images).pooler_output[0].numpy())
    return features


def prepared(path, steps):
    """An image by the steps in a file's property `input`."""
    image = Image.open(path).convert(steps["color"])
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    resample = filters[steps["interpolation"]]
    if "resize_to" in steps:
        image = image.resize(steps["resize_to"], resample)
    else:
        shorter, side = steps["resize_shorter_side"], steps["center_crop"]
        sizes = [shorter * length // min(image.size) for length in image.size]
        left, top = (round((length - side) / 2) for length in sizes)
        image = image.resize(sizes, resample).crop((left, top, left + side, top + side))
    values = (numpy.asarray(image, numpy.float32) / 255 - steps["mean"]) / steps["std"]
    return values.transpose(2, 0, 1).astype(numpy.float32)


def by_onnxruntime(file, paths):
    """Probabilities of the classes and their names, all images in one batch and then one alone."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    steps = json.loads(properties["input"])
    images = numpy.stack([prepared(path, steps) for path in paths])
    (logits,) = session.run(["logits"], {"images": images})
    (one,) = session.run(["logits"], {"images": images[:1]})
    assert numpy.allclose(one[0], logits[0], atol=1e-4)
    return softmax(logits), json.loads(properties["classes"])


def softmax(logits):
    exponentials = numpy.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def main():
    program, images, run, classifier = sys.argv[1:]

    def ibot(*arguments):
        done = subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, text=True)
        return done.stdout

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        on = ("--data", images, "--backend", "flex")
        ibot("embed", "--model", run, "--out", folder / "features.npy", *on)
        features = numpy.load(folder / "features.npy")
        lines = (folder / "features.paths.csv").read_text().splitlines()[1:]
        paths = [line.rsplit(",", 1)[0] for line in lines]
        compare("timm, run folder", by_timm(run, paths)[0], features)
        compare("transformers, run folder", by_transformers(run, paths), features)

        answers = json.loads(ibot("classify", "--model", classifier, "--json", *on))["images"]
        paths = [answer["path"] for answer in answers]
        expected = [answer["probability"] for answer in answers]
        ibot("export", "--model", classifier, "--format", "onnx", "--out", folder / "classifier.onnx")
        probabilities, classes = by_onnxruntime(folder / "classifier.onnx", paths)
        logits, config = by_timm(classifier, paths)
        assert list(config["label_names"]) == classes
        for what, found in (("onnxruntime, classifier", probabilities), ("timm, classifier", softmax(logits))):
            assert [classes[at] for at in found.argmax(1)] == [answer["class"] for answer in answers], what
            compare(what, found.max(1), expected)


main()
