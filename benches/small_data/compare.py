"""The presets small-data and stable-pretraining with one backbone, at equal wall time, by k-NN.

    python compare.py CLOTHES [SECONDS]

CLOTHES is what clothes.py wrote; the other set is the demo's, which `ibot train` leaves in its cache. Each preset makes as
many steps as fit SECONDS (default 150) at the pace of its own first steps on this machine, so let nothing else run. Prints
the table of docs/recipes.md. Needs `cargo build --release` before, and nothing beside Python 3.9.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IBOT = ROOT / "target" / "release" / "ibot"
BACKBONE = Path(__file__).with_name("backbone.toml")
PRESETS = ["stable-pretraining", "small-data"]
SEEDS = range(3)
PACE_STEPS = 30


def train(preset: str, images: Path, steps: int, seed: int) -> tuple[float, float, float, float, set[str]]:
    """k-NN before and after, seconds of the steps and of the median step, and what the health monitor said."""
    validation = next(path for path in (images.parent / "val", images.parent / "test") if path.is_dir())
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [IBOT, "train", "--backend", "flex", "--preset", preset, "--config", BACKBONE]
        command += ["--data", images, "--val", validation, "--out", run, "--steps", steps, "--seed", seed]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        lines = [json.loads(line) for line in (run / "evaluations.jsonl").open()]
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    seconds = [line["step_s"] for line in metrics]
    anomalies = {name for line in metrics for name in line.get("anomalies", line.get("sick", []))}
    return lines[0]["knn"], lines[-1]["knn"], sum(seconds), statistics.median(seconds[5:]), anomalies


def main(clothes: Path, seconds: float) -> None:
    subprocess.run([IBOT, "train", "--steps", "1", "--backend", "flex", "--out", tempfile.mkdtemp()], check=True, capture_output=True)
    cache = next(path for path in (Path.home() / ".cache", Path.home() / "Library" / "Caches") if (path / "ibot").is_dir())
    sets = {"demo": cache / "ibot" / "demo" / "train", "clothes": clothes / "train"}
    print("| images | preset | steps | seconds | untrained | k-NN, seeds 0 to 2 | health |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, images in sets.items():
        for preset in PRESETS:
            pace = train(preset, images, PACE_STEPS, 0)[3]
            steps = round(seconds / pace)
            found = [train(preset, images, steps, seed) for seed in SEEDS]
            before = " ".join(f"{100 * run[0]:.1f}" for run in found)
            after = " ".join(f"{100 * run[1]:.1f}" for run in found)
            took = " ".join(f"{run[2]:.0f}" for run in found)
            warnings = ", ".join(sorted(set().union(*(run[4] for run in found)))) or "no warning"
            print(f"| {name} | `{preset}` | {steps} | {took} | {before} | {after} | {warnings} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) == 3 else 150.0)
