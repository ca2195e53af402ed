"""Bytes that the products of a ViT-S step read from memory, by the order in which workgroups take their tiles.

    python3 benches/l2/l2_bytes.py

A model, not a measurement: as many workgroups as a GPU has places for go through their terms in step, the next ones
start when all of them are done, and the L2 drops what was not used for the longest time (LRU). It holds operands in pieces
of 32 terms of a tile, and what is written. The step is that of ViT-S/16 at 224, 64 images in 2 views, with heads of
65 536 and 8 192 prototypes, without the last block's shortcut.
"""

from collections import OrderedDict

TERMS = 32  # of a piece: a cache line of 128 bytes where rows are long in terms
CUT_FOR, LEAST_TERMS, DEPTH = 1024, 512, 16  # as in src/kernels/wgsl/matrix_plan.rs
FEW, BAND = 32, 16  # as in src/kernels/wgsl/matrix_bands.rs

TOKENS, MASKED, CLASSES = 128 * 197, 128 * 118, 128
# name, rows, terms, columns, how often a step makes one of this shape (12 blocks of teacher and student, and the gradients
# by rows of the latter), whether its sums are cut
PRODUCTS = [
    ("q, k, v", TOKENS, 384, 1152, 24, False),
    ("attention's output", TOKENS, 384, 384, 36, False),
    ("MLP, first", TOKENS, 384, 1536, 36, False),
    ("MLP, second", TOKENS, 1536, 384, 36, False),
    ("gradient of rows, q, k, v", TOKENS, 1152, 384, 12, False),
    ("gradient of weights, q, k, v", 384, TOKENS, 1152, 12, True),
    ("gradient of weights, output", 384, TOKENS, 384, 12, True),
    ("gradient of weights, MLP", 384, TOKENS, 1536, 24, True),
    ("head, 2048 to 2048", MASKED + CLASSES, 2048, 2048, 3, False),
    ("gradient of weights, head", 2048, MASKED + CLASSES, 2048, 1, True),
    ("prototypes of patches", MASKED, 256, 8192, 2, False),
    ("gradient of rows, those", MASKED, 8192, 256, 1, False),
    ("gradient of weights, those", 256, MASKED, 8192, 1, True),
    ("prototypes of classes", CLASSES, 256, 65536, 2, False),
    ("large and square", 8192, 2048, 8192, 0, False),
]
# name, MB of L2, tile, workgroups at a time
GPUS = [
    ("4 MB, 128 x 64, 240 places", 4, (128, 64), 240),
    ("32 MB, 128 x 128, 120 places", 32, (128, 128), 120),
    ("50 MB, 128 x 128, 264 places", 50, (128, 128), 264),
]
ORDERS = ["rows", 8, 16, "columns", "chosen"]


def ceil(a, b):
    return -(-a // b)


def plan(rows, terms, columns, tile, may_cut):
    """Parts of the sums, and the terms of each."""
    parts = min(CUT_FOR // (ceil(rows, tile[0]) * ceil(columns, tile[1])), terms // LEAST_TERMS)
    if not may_cut or parts < 2:
        return 1, terms
    span = ceil(ceil(terms, parts), DEPTH) * DEPTH
    return ceil(terms, span), span


def chosen(tile_rows, tile_columns):
    """Tile rows of a band, as in src/kernels/wgsl/matrix_bands.rs."""
    if tile_columns <= min(tile_rows, FEW):
        return 1
    return tile_rows if tile_rows <= FEW else BAND


def place(number, tile_rows, tile_columns, band):
    """Tile row and column of a workgroup: bands of so many tile rows, column by column within one."""
    first = number // (band * tile_columns) * band
    high = min(tile_rows - first, band)
    within = number % (band * tile_columns)
    return first + within % high, within // high


class L2:
    """What it holds, the piece that was not used for the longest time first; `read` counts what had to be brought."""

    def __init__(self, megabytes):
        self.room, self.used, self.read, self.pieces = megabytes << 20, 0, 0, OrderedDict()

    def touch(self, piece, size, is_read):
        if piece in self.pieces:
            self.pieces.move_to_end(piece)
            return
        self.read += size if is_read else 0
        self.pieces[piece] = size
        self.used += size
        while self.used > self.room:
            self.used -= self.pieces.popitem(last=False)[1]


def bytes_read(rows, terms, columns, tile, places, megabytes, band, may_cut):
    tile_rows, tile_columns = ceil(rows, tile[0]), ceil(columns, tile[1])
    band = {"rows": 1, "columns": tile_rows, "chosen": chosen(tile_rows, tile_columns)}.get(band, band)
    parts, span = plan(rows, terms, columns, tile, may_cut)
    tiles = tile_rows * tile_columns
    groups = [(part, *place(at, tile_rows, tile_columns, band)) for part in range(parts) for at in range(tiles)]
    l2 = L2(megabytes)
    for start in range(0, len(groups), places):
        running = groups[start : start + places]
        for at in range(0, span, TERMS):
            for part, row, column in running:
                term = part * span + at
                count = min(TERMS, span - at, terms - term)
                if count <= 0:
                    continue
                l2.touch(("left", row, term), 4 * count * min(tile[0], rows - row * tile[0]), True)
                l2.touch(("right", column, term), 4 * count * min(tile[1], columns - column * tile[1]), True)
        for part, row, column in running:
            l2.touch(("product", part, row, column), 4 * tile[0] * tile[1], False)
    return l2.read


def main():
    for name, megabytes, tile, places in GPUS:
        print(f"\n{name}: MB read from memory, in bands of so many tile rows\n")
        print("| product | operands | " + " | ".join(str(order) for order in ORDERS) + " |")
        print("| --- " * (len(ORDERS) + 2) + "|")
        total = [0] * len(ORDERS)
        for product, rows, terms, columns, times, may_cut in PRODUCTS:
            read = [bytes_read(rows, terms, columns, tile, places, megabytes, order, may_cut) for order in ORDERS]
            total = [sum + times * bytes for sum, bytes in zip(total, read)]
            operands = 4 * terms * (rows + columns)
            cells = [f"{bytes / 1e6:.0f}" for bytes in [operands, *read]]
            print(f"| {product}, {rows} x {terms} x {columns} | " + " | ".join(cells) + " |", flush=True)
        print("| these of a step, GB | | " + " | ".join(f"{bytes / 1e9:.1f}" for bytes in total) + " |")


main()
