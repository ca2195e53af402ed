"""Trains and judges peers on the same images, transformer and cores, for the same time.

    python sets.py FOLDER
    python compare.py --sets FOLDER pace                          # what a step of each peer takes
    python compare.py --sets FOLDER run --set openclipart --peer lightly-dino --seed 0 --budget 1800
    python compare.py --sets FOLDER all --budget 1800             # every set, peer and seed that results.jsonl lacks
    python compare.py table                                       # Markdown; mean and deviation over the seeds
    python compare.py differences --peer small-data --budget 300  # of a peer to the others, with 95 % intervals
    python compare.py curves --out curves.png                     # k-NN over seconds

A run takes as many steps as fit the budget at the peer's pace: the processor time of a step, views included, over the number
of cores, which is how long a step takes that keeps all cores busy. Threads of PyTorch that wait do not spin meanwhile. So a
run may take place on a machine that does other things too: it takes longer then, and compares the same. Where a peer leaves
cores idle, which PyTorch's does more than ibot, its true steps are longer than that, and it gets more of them than it should.

Each run is a line of results.jsonl; one that is there is not made again, so the table can be filled over several days. On Unix.

`pace` and `run` with `--change "method.koleo_weight = 0.0"` take the preset small-data with these settings on top, in TOML's
dotted keys, several apart by ";". The change is the name of the peer.

IBOT is the program, by default target/release/ibot: build it before with `cargo build --release`.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from judge import IBOT, knn, patches, probe, transformers_folder
from model import SHAPES, ibot_settings

HERE = Path(__file__).parent
RESULTS, PACES = HERE / "results.jsonl", HERE / "paces.json"
SETS = ("openclipart", "elpv", "tiles")
SEEDS = range(3)
BATCH = 64
SNAPSHOTS = 4
# the difference of two runs is that of their steps
PACE_STEPS = (3, 9)
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
SMALL_DATA = ["--preset", "small-data"]
# name: (program, its arguments)
PEERS = {
    "untrained": ("none", []),
    "reference": ("torch", []),
    "lightly-dino": ("torch", []),
    "lightly-ibot": ("torch", []),
    "stable-pretraining": ("ibot", ["--preset", "stable-pretraining"]),
    "small-data": ("ibot", SMALL_DATA),
    "small-data-bf16": ("ibot", [*SMALL_DATA, "--precision", "bf16"]),
    "lightly-dino-bf16": ("torch", ["--precision", "bf16"]),
    "reference-bf16": ("torch", ["--precision", "bf16"]),
}
MEASURES = {
    "knn-20": "k-NN",
    "student-knn-20": "k-NN, student",
    "probe": "linear probe",
    "kind-knn-20": "k-NN of the kind",
    "patches": "patches, mean IoU",
    "student-patches": "patches, student",
}


def train(flags, peer: str, images: Path, steps: int, seed: int, out: Path, snapshots: bool = False) -> list:
    """Trains, and writes teacher.safetensors and student.safetensors into `out`.

    With `snapshots`, PyTorch's peers leave backbones there on the way; the k-NN on the way of ibot's, by step, is returned.
    """
    program, extra = PEERS.get(peer, ("ibot", SMALL_DATA))
    if program == "torch":
        command = [sys.executable, HERE / "peers.py", peer.replace("-bf16", ""), "--data", images / "train", "--out", out]
        command += ["--steps", steps, "--seed", seed, "--model", flags.model, "--batch-size", BATCH, *extra]
        run([*command, "--snapshots", SNAPSHOTS if snapshots else 1])
        return []
    out.mkdir(parents=True)
    settings = out / "settings.toml"
    change = "" if peer in PEERS else peer.replace(";", "\n")
    settings.write_text(ibot_settings(flags.model) + change)
    command = [IBOT, "train", "--backend", "flex", "--config", settings, "--seed", seed, "--data", images / "train", *extra]
    if snapshots:
        epochs = steps * BATCH // len(list((images / "train").rglob("*.png")))
        command += ["--val", images / "val", "--knn-every", max(1, epochs // SNAPSHOTS)]
    # both presets have batches of 64; a change may have others
    run([*command, "--out", out / "run", "--steps", steps])
    for network in ("teacher", "student"):
        (out / "run" / f"{network}.safetensors").rename(out / f"{network}.safetensors")
    evaluations = [json.loads(line) for line in (out / "run" / "evaluations.jsonl").open()]
    return [(line["step"], line["knn"]) for line in evaluations if "knn" in line and 0 < line["step"] < steps]


def run(command) -> str:
    environment = {**os.environ, **QUIET_THREADS}
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr[-3000:]}")
    return done.stdout


def untrained(model: str, seed: int, out: Path) -> None:
    import torch
    from model import timm_model
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    out.mkdir(parents=True)
    save_file(timm_model(model).state_dict(), out / "teacher.safetensors")


def judged(flags, name: str, out: Path) -> dict:
    folder, images = out / "judged", flags.sets / name
    model = transformers_folder(out / "teacher.safetensors", flags.model, folder)
    found = {**knn(model, images), "probe": probe(model, images)}
    if name == "openclipart":
        found["patches"] = patches(model, images)
    if name == "elpv":
        kind = flags.sets / "elpv-kind"
        found |= {f"kind-{key}": value for key, value in knn(model, kind).items()}
    if (out / "student.safetensors").exists():
        student = transformers_folder(out / "student.safetensors", flags.model, folder)
        found |= {f"student-{key}": value for key, value in knn(student, images).items()}
        if name == "openclipart":
            found["student-patches"] = patches(student, images)
    return found


def curve_of(flags, name: str, out: Path) -> list:
    """k-NN of the backbones that a run left on the way, by step."""
    steps = sorted(int(path.stem.split("-")[1]) for path in out.glob("teacher-*.safetensors"))
    models = [transformers_folder(out / f"teacher-{step}.safetensors", flags.model, out / f"judged-{step}") for step in steps]
    return [(step, knn(model, flags.sets / name)["knn-20"]) for step, model in zip(steps, models)]


def paces() -> dict:
    return json.loads(PACES.read_text()) if PACES.exists() else {}


def results() -> list:
    return [json.loads(line) for line in RESULTS.open()] if RESULTS.exists() else []


def pace_key(flags, peer: str) -> str:
    return f"{flags.model} {peer}"


def measure_pace(flags, peer: str) -> None:
    """Seconds of a step; what is measured stays, until paces.json is deleted."""
    if peer == "untrained" or pace_key(flags, peer) in paces():
        return
    took = []
    for steps in PACE_STEPS:
        before = processor_time()
        with tempfile.TemporaryDirectory() as folder:
            train(flags, peer, flags.sets / flags.set, steps, 0, Path(folder) / "run")
        took.append(processor_time() - before)
    seconds = (took[1] - took[0]) / (PACE_STEPS[1] - PACE_STEPS[0]) / os.cpu_count()
    PACES.write_text(json.dumps({**paces(), pace_key(flags, peer): round(seconds, 4)}, indent=1) + "\n")
    print(f"{pace_key(flags, peer)}: {seconds:.3f} s a step", flush=True)


def processor_time() -> float:
    """Seconds of all processes that this one has started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def same(flags, line: dict, name: str, peer: str, seed: int) -> bool:
    budget = 0 if peer == "untrained" else flags.budget
    asked = {"set": name, "peer": peer, "seed": seed, "model": flags.model, "budget": budget}
    return all(line[key] == value for key, value in asked.items())


def one(flags, name: str, peer: str, seed: int) -> None:
    if any(same(flags, line, name, peer, seed) for line in results()):
        return
    if peer != "untrained" and pace_key(flags, peer) not in paces():
        sys.exit(f"no pace of {peer} yet: `compare.py pace --peer {peer}` measures it")
    line = {"set": name, "peer": peer, "seed": seed, "model": flags.model, "budget": flags.budget}
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        if peer == "untrained":
            line["budget"] = 0
            untrained(flags.model, seed, out)
        else:
            line["pace_s"] = paces()[pace_key(flags, peer)]
            line["steps"] = math.floor(flags.budget / line["pace_s"])
            curve = train(flags, peer, flags.sets / name, line["steps"], seed, out, flags.snapshots)
            line["train_s"] = round(time.time() - started)
            curve = curve or curve_of(flags, name, out)
            if curve:
                line["curve"] = curve
        line |= {"cores": os.cpu_count(), **judged(flags, name, out)}
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def spread(values) -> str:
    if not values:
        return ""  # the untrained one has no student
    mean = 100 * statistics.mean(values)
    return f"{mean:.1f} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def table() -> None:
    groups = {}
    for line in results():
        groups.setdefault((line["set"], line["model"]), []).append(line)
    for (name, model), lines in groups.items():
        columns = [key for key in MEASURES if any(key in line for line in lines)]
        print(f"\n{name}, {model}\n\n| method | budget | steps | seeds | " + " | ".join(MEASURES[key] for key in columns) + " |")
        print("| --- " * (4 + len(columns)) + "|")
        rows = {}
        for line in lines:
            rows.setdefault((line["budget"], line["peer"]), []).append(line)
        # budgets first, then the best k-NN
        order = {key: (key[0], -statistics.mean(run["knn-20"] for run in runs)) for key, runs in rows.items()}
        for (budget, peer), runs in sorted(rows.items(), key=lambda row: order[row[0]]):
            cells = [spread([run[key] for run in runs if key in run]) for key in columns]
            steps = runs[0].get("steps", 0)
            print(f"| {peer} | {budget} s | {steps} | {len(runs)} | " + " | ".join(cells) + " |")


def differences(budget: int, peers: list) -> None:
    """How far each of `peers` is above every other peer and the untrained transformer, in points: 95 % by Welch's t-test."""
    runs = {}
    for line in results():
        if line["budget"] in (0, budget):
            runs.setdefault(line["set"], {}).setdefault(line["peer"], []).append(line)
    for name, of_set in runs.items():
        pairs = [(peer, other) for peer in peers for other in of_set if peer in of_set and peer != other]
        rows = [(pair, [difference(*(of_set[peer] for peer in pair), key) for key in MEASURES]) for pair in pairs]
        rows = [(pair, cells) for pair, cells in rows if any(cells)]
        if rows:
            print(f"\n{name}, {budget} s\n\n| method | less | " + " | ".join(MEASURES.values()) + " |")
            print("| --- " * (2 + len(MEASURES)) + "|")
        for pair, cells in rows:
            print(f"| {' | '.join(pair)} | {' | '.join(cells)} |")


def difference(ours: list, others: list, key: str) -> str:
    from scipy.stats import ttest_ind

    values = [[100 * line[key] for line in lines if key in line] for lines in (ours, others)]
    if min(map(len, values)) < 2:
        return ""
    low, high = ttest_ind(*values, equal_var=False).confidence_interval(0.95)
    return f"{(low + high) / 2:+.1f} ± {(high - low) / 2:.1f}"


def curves(budget: int, out: Path) -> None:
    """Draws the k-NN accuracy of all runs of a budget on the way: a color for each peer, a line for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [line for line in results() if "curve" in line and line["budget"] == budget]
    names, peers = (list(dict.fromkeys(line[key] for line in lines)) for key in ("set", "peer"))
    if not names:
        sys.exit(f"no run of {budget} s has a curve: `run --snapshots` makes one")
    figure, axes = pyplot.subplots(1, len(names), figsize=(5 * len(names), 3.5), squeeze=False)
    for axis, name in zip(axes[0], names):
        start = [line["knn-20"] for line in results() if line["set"] == name and line["peer"] == "untrained"]
        for line in (line for line in lines if line["set"] == name):
            points = [(0, statistics.mean(start))] if start else []
            steps, found = zip(*points, *line["curve"], (line["steps"], line["knn-20"]))
            seconds = [step * line["pace_s"] for step in steps]
            label = line["peer"] if line["peer"] not in axis.get_legend_handles_labels()[1] else None
            color = f"C{peers.index(line['peer'])}"
            axis.plot(seconds, [100 * value for value in found], marker="o", markersize=3, color=color, label=label)
        axis.set(title=name, xlabel="seconds on all cores", ylabel="k-NN, k = 20, %")
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(out, dpi=80)


def main(flags) -> None:
    if flags.what == "table":
        return table()
    if flags.what == "differences":
        return differences(flags.budget, flags.peer or list(PEERS))
    if flags.what == "curves":
        return curves(flags.budget, flags.out)
    if not flags.sets:
        sys.exit("say where the images of sets.py are: --sets FOLDER")
    peers = [flags.change] if flags.change else flags.peer or list(PEERS)
    if flags.what == "pace":
        for peer in peers:
            measure_pace(flags, peer)
    elif flags.what == "run":
        for peer in peers:
            one(flags, flags.set, peer, flags.seed)
    else:
        for name in SETS:
            for seed in SEEDS:
                for peer in peers:
                    one(flags, name, peer, seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pace", "run", "all", "table", "differences", "curves"])
    parser.add_argument("--sets", type=Path, help="what sets.py wrote")
    parser.add_argument("--set", choices=SETS, default="openclipart")
    parser.add_argument("--peer", nargs="*", choices=PEERS, help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=int, default=1800, help="seconds on all cores")
    parser.add_argument("--model", choices=SHAPES, default="vit-ti-8")
    parser.add_argument("--snapshots", action="store_true", help="judge backbones on the way too, for the curve")
    parser.add_argument("--change", help="settings on top of small-data, as a peer: method.koleo_weight = 0.0; epochs = 2")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    main(parser.parse_args())
