"""Seconds of embed, knn, probe and visualize by an untrained ViT-S on 796 PNGs with transparency in nested folders.

    python bar.py [IBOT]

IBOT is the program, by default target/release/ibot: build it before with `cargo build --release`. Images and model are made
in a temporary folder, the same each time, on the CPU (Flex). The bar is ten minutes for the four commands together on two
cores; its outcome is the exit status. Needs nothing beside Python 3.9.
"""

import random
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 796
CLASSES = 8
SIZE = (500, 375)
BAR_S = 600.0
# heads are not part of a model file: the smaller they are, the sooner it is made
CONFIG = """
batch_size = 2
[method]
projector_hidden_dim = 32
projector_bottleneck_dim = 16
n_cls_prototypes = 16
n_patch_prototypes = 16
"""


def write_png(path: Path, rows: list[bytes]) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *SIZE, 8, 6, 0, 0, 0)  # 8 bits, RGBA
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def image(at: int) -> list[bytes]:
    """Rows of a half transparent, noisy box on a ground that is clear; its width and height tell the class."""
    draw = random.Random(at)
    label, (width, height) = at % CLASSES, SIZE
    box = (60 + 50 * (label % 4), 100 + 150 * (label // 4))
    left, top = draw.randrange(width - box[0]), draw.randrange(height - box[1])
    ink = [draw.randrange(40, 200) for _ in range(3)]
    clear = bytes(4)
    rows = []
    for y in range(height):
        if not top <= y < top + box[1]:
            rows.append(clear * width)
            continue
        inside = bytearray(draw.randbytes(4 * box[0]))
        inside[0::4] = bytes(ink[:1]) * box[0]
        inside[3::4] = bytes([128 + y % 128]) * box[0]
        rows.append(clear * left + bytes(inside) + clear * (width - left - box[0]))
    return rows


def main(ibot: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data, run, config = root / "images", root / "run", root / "small.toml"
        for at in range(IMAGES):
            write_png(data / f"class_{at % CLASSES}" / f"part_{at // CLASSES % 3}" / f"{at:04}.png", image(at))
        config.write_text(CONFIG)

        def command(*arguments: object) -> float:
            started = time.monotonic()
            subprocess.run([str(part) for part in (ibot, *arguments)], check=True, stdout=subprocess.DEVNULL)
            return time.monotonic() - started

        train = ("--encoder", "vit_small_patch16_224", "--steps", 1, "--config", config, "--backend", "flex")
        made = command("train", "--data", data / "class_0" / "part_0", "--out", run, *train)
        print(f"{IMAGES} PNGs of {SIZE[0]} x {SIZE[1]}; the model took {made:.1f} s to make", flush=True)
        model = ("--model", run / "teacher.safetensors", "--backend", "flex")
        images = [data / "class_0" / "part_0" / "0000.png", data / "class_1" / "part_0" / "0001.png"]
        commands = {
            "embed": ("--data", data, "--out", root / "features.parquet"),
            "knn": ("--data", data),
            "probe": ("--data", data),
            "visualize": ("--image", *images, "--run", run, "--html", "--out", root / "maps"),
        }
        seconds = {name: command(name, *model, *arguments) for name, arguments in commands.items()}
        for name, took in seconds.items():
            print(f"{name:>9} {took:7.1f} s")
        total = sum(seconds.values())
        print(f"{'all':>9} {total:7.1f} s of {BAR_S:.0f} s")
        sys.exit(total > BAR_S)


if __name__ == "__main__":
    if len(sys.argv) > 2 or "--help" in sys.argv:
        sys.exit(__doc__)
    main(Path(sys.argv[1]) if len(sys.argv) == 2 else ROOT / "target" / "release" / "ibot")
