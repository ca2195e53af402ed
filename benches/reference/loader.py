"""Times torchvision's views of the JPEGs of a folder on one thread: python benches/reference/loader.py DIR

    pip install -r benches/reference/requirements.txt
"""

import argparse
import json
import time
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import v2

flags = argparse.ArgumentParser()
flags.add_argument("folder", type=Path)
flags.add_argument("--seconds", type=float, default=8.0)
flags = flags.parse_args()

torch.set_num_threads(1)
view = v2.Compose([
    v2.RandomResizedCrop(224, scale=(0.4, 1.0)),
    v2.RandomHorizontalFlip(),
    v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
    v2.RandomGrayscale(0.2),
    v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], p=0.5),
    v2.RandomSolarize(128, 0.2),
    v2.PILToTensor(),
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
])
files = sorted(path for path in flags.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
if not files:
    raise SystemExit(f"{flags.folder}: no .jpg file")
count, start = 0, time.perf_counter()
while time.perf_counter() - start < flags.seconds:
    image = Image.open(files[count % len(files)]).convert("RGB")
    view(image), view(image)
    count += 1
print(json.dumps({"images_per_s": count / (time.perf_counter() - start)}))
