"""Fetches and makes the labelled images of benches/learning: python sets.py FOLDER [openclipart] [elpv] [tiles]

Each is FOLDER/NAME/train/CLASS and FOLDER/NAME/val/CLASS, the same on every machine. Nothing of them is ours to pass on.

openclipart  3 309 drawings in 47 classes: folders of Debian's openclipart-png (public domain) that hold 30 to 400 images of
             at least 64 px. Shrunk to 160 px on the shorter side; transparency is kept.
elpv         2 624 photographs of solar cells out of PyPI's elpv-dataset (Buerhop-Lutz et al. 2018; CC BY-NC-SA 4.0):
             elpv/ has the classes defect (probability 2/3 and 1) and sound (0 and 1/3), elpv-kind/ mono and poly.
tiles        Tiles of 128 px out of 19 images of Debian's lomiri-wallpapers (CC BY, CC BY-SA), nearly all of them photographs;
             class = image, trained on its left half and tested on its right half.

One image in five is in val, by a hash of its name; tiles are 160 and 40 of a half, by a hash of their place. Needs pillow,
pip, and apt-get and dpkg-deb of Debian 12, whose versions of the packages are asked for.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from PIL import Image

OPENCLIPART = "openclipart-png=1:0.18+dfsg-19"
WALLPAPERS = ("lomiri-wallpapers-16.04=20.04.0-2", "lomiri-wallpapers-20.04=20.04.0-2")
ELPV = "elpv-dataset==1.0.0.post1"
SHORTER_SIDE = 160
TILE = 128
TILES = {"train": 160, "val": 40}


def hash_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def part(name: str) -> str:
    return "val" if hash_of(name) % 5 == 0 else "train"


def debian(packages, folder: Path) -> Path:
    """The files of Debian packages, unpacked. Their versions are asked for, because other versions are other images."""
    subprocess.run(["apt-get", "download", "--quiet", *packages], cwd=folder, check=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
    return folder / "usr" / "share"


def openclipart(out: Path, folder: Path) -> None:
    root, seen = debian([OPENCLIPART], folder) / "openclipart" / "png", set()
    for place, folders, names in os.walk(root):
        folders.sort()
        label = Path(place).relative_to(root).as_posix()
        if label.split("/")[0] in ("unsorted", "special"):
            continue
        found = []
        for name in sorted(names):
            path = Path(place) / name
            digest = hashlib.sha256(path.read_bytes()).digest()
            if path.suffix != ".png" or digest in seen:
                continue
            try:
                with Image.open(path) as image:
                    large = min(image.size) >= 64
            except OSError:
                continue
            if large:
                seen.add(digest)
                found.append(path)
        if not 30 <= len(found) <= 400:
            continue
        for path in found:
            target = out / "openclipart" / part(f"{label}/{path.name}") / label.replace("/", "-")
            target.mkdir(parents=True, exist_ok=True)
            image = Image.open(path).convert("RGBA")
            image.thumbnail(shorter(image.size, SHORTER_SIDE), Image.Resampling.LANCZOS)
            image.save(target / path.name)


def shorter(size, side: int):
    scale = side / min(size)
    return tuple(max(1, round(scale * length)) for length in size)


def elpv(out: Path, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, ELPV]
    subprocess.run(pip, check=True)
    with zipfile.ZipFile(next(folder.glob("elpv_dataset-*.whl"))) as wheel:
        root = "elpv_dataset/data/"
        for line in wheel.read(root + "labels.csv").decode().split("\n"):
            if not line:
                continue
            name, defect, kind = line.split()
            bytes_of_it = wheel.read(root + name)
            file = Path(name).name
            for labels, label in (("elpv", "defect" if float(defect) > 0.5 else "sound"), ("elpv-kind", kind)):
                target = out / labels / part(file) / label
                target.mkdir(parents=True, exist_ok=True)
                (target / file).write_bytes(bytes_of_it)


def tiles(out: Path, folder: Path) -> None:
    for path in sorted((debian(WALLPAPERS, folder) / "backgrounds").glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        columns, rows = image.width // TILE, image.height // TILE
        # a middle column is in neither half
        halves = {"train": range(columns // 2), "val": range((columns + 1) // 2, columns)}
        for half, places in halves.items():
            every = [(column, row) for column in places for row in range(rows)]
            every.sort(key=lambda place: hash_of(f"{path.stem} {place[0]} {place[1]}"))
            target = out / "tiles" / half / path.stem
            target.mkdir(parents=True, exist_ok=True)
            for column, row in every[: TILES[half]]:
                left, top = TILE * column, TILE * row
                image.crop((left, top, left + TILE, top + TILE)).save(target / f"{column:02}-{row:02}.png")


def main(out: Path, names) -> None:
    makers = {"openclipart": openclipart, "elpv": elpv, "tiles": tiles}
    unknown = set(names) - set(makers)
    if unknown:
        sys.exit(f"no set {', '.join(sorted(unknown))}; there are {', '.join(makers)}")
    Image.MAX_IMAGE_PIXELS = None
    for name in names or makers:
        if (out / name).exists():
            sys.exit(f"{out / name} is there already; delete it to make it anew")
        with tempfile.TemporaryDirectory() as folder:
            makers[name](out, Path(folder))
    for found in sorted(path for path in out.iterdir() if (path / "train").is_dir()):
        counts = {half: len(list((found / half).rglob("*.png"))) for half in ("train", "val")}
        classes = len(list((found / "train").iterdir()))
        print(f"{found.name}: {counts['train']} images to train on, {counts['val']} to test on, {classes} classes")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
