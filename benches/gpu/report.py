"""One table of what run.sh measured in a folder: table.md, for docs/performance.md, and results.json. Standard library alone."""

import json
import sys
from pathlib import Path

NOT_MEASURED = "not measured"


def objects(path):
    """The JSON objects of a stage, one a line; other lines are for people."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                pass  # a stage that was cut off within its last line
    return found


def first_line(path):
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return lines[1] if len(lines) > 1 else ""  # below nvidia-smi's heads


def number(value, digits=1):
    return NOT_MEASURED if value is None else f"{value:.{digits}f}"


def table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


class Run:
    def __init__(self, folder):
        self.folder = folder
        stages = folder / "stages.tsv"
        lines = stages.read_text().splitlines() if stages.is_file() else []
        self.stages = [dict(zip(("stage", "ended", "seconds"), line.split("\t"))) for line in lines]
        self.probe = objects(folder / "probe.out")
        self.torch_parts = objects(folder / "torch-parts.out")
        self.steps, self.rooflines, self.torch = {}, {}, {}
        for path in sorted(folder.glob("step-*.out")):
            for found in objects(path):
                # --roofline has the steps within it
                if "parts" in found:
                    self.rooflines[path.stem] = found
                    found = found["measured"]
                self.steps[path.stem] = found
        for path in sorted(folder.glob("torch-*.out")):
            if path.stem != "torch-parts":
                self.torch[path.stem] = objects(path)

    def device(self):
        names = [step["device"] for step in self.steps.values()]
        return names[0] if names else "a device on which no step ran"

    def step_table(self):
        rows = []
        for name, step in self.steps.items():
            gpu = step.get("gpu") or {}
            host, calls = gpu.get("host") or {}, gpu.get("traffic") or {}
            torch = {run.get("precision"): run for run in self.torch.get(name.replace("step", "torch"), [])}
            launches = calls.get("launches")
            handed_over = host.get("handed_over_s")
            without_waits = host.get("step_s")
            fp32 = torch.get("fp32", {}).get("median_ms")
            ratio = 1e3 * without_waits / fp32 if without_waits and fp32 else None
            rows.append([
                name,
                step["size"],
                number(1e3 * step["median"]["total_s"]),
                number(1e3 * without_waits if without_waits else None),
                number(1e3 * handed_over if handed_over else None),
                number(1e6 * handed_over / launches if handed_over and launches else None, 0),
                launches if launches is not None else NOT_MEASURED,
                calls.get("host_writes", NOT_MEASURED),
                number(gpu.get("peak_in_use_mib"), 0),
                *(number(torch.get(precision, {}).get("median_ms")) for precision in ("fp32", "tf32", "bf16")),
                number(torch.get("fp32", {}).get("peak_mib"), 0),
                number(ratio, 2),
            ])
        heads = ["stage", "step", "ms, a wait after each phase", "ms without waits", "host ms", "host us a launch", "launches",
                 "host writes", "MiB at most", "PyTorch FP32 ms", "TF32 ms", "bf16 ms", "PyTorch FP32 MiB", "ibot / FP32"]
        return table(heads, rows)

    def part_table(self):
        torch = {part["part"]: part for part in self.torch_parts if not part.get("tf32")}
        everything = self.probe + list(torch.values())
        best = max((part["tflops"] for part in everything if "tflops" in part), default=None)
        copy = max((part["gb_s"] for part in everything if part["part"] == "copy"), default=None)
        rows = []
        for part in self.probe:
            is_product = "tflops" in part
            speed, most = (part["tflops"], best) if is_product else (part["gb_s"], copy)
            peer = torch.get(part["part"], {}).get("ms")
            rows.append([
                part["part"],
                number(part["ms"], 3),
                f"{speed:.3g} TFLOP/s" if is_product else f"{speed:.4g} GB/s",
                f"{100 * speed / most:.0f} %" if most else NOT_MEASURED,
                number(peer, 3),
                number(part["ms"] / peer if peer else None, 2),
                "WRONG" if part.get("wrong") else "right" if is_product and "attention" not in part["part"] else "",
            ])
        best_text = number(best, 2) + " TFLOP/s, the best product here or in PyTorch FP32"
        copy_text = number(copy, 0) + " GB/s, the faster copy of both"
        heads = ["part", "ms", "speed", "of the card's best", "PyTorch FP32 ms", "ibot / FP32", "numbers"]
        return f"Best of the card: {best_text}; {copy_text}.\n\n" + table(heads, rows)

    def roofline_tables(self):
        text = ""
        for name, roofline in self.rooflines.items():
            device, median = roofline["devices"][0], roofline["measured"]["median"]
            rows = []
            total = 0.0
            for phase in ("forward", "backward", "optimizer", "ema"):
                predicted = sum(part["milliseconds"][0] for part in roofline["parts"] if part["phase"] == phase)
                measured = 1e3 * median[f"{phase}_s"]
                total += predicted
                rows.append([phase, number(measured), number(predicted), number(predicted / measured, 2)])
            measured = 1e3 * median["total_s"]
            rows.append(["step", number(measured), number(total), number(total / measured, 2)])
            text += (f"{name}: predicted from {device['tflops']:.2f} TFLOP/s and {device['gb_s']:.0f} GB/s, which this program's "
                     "product and copy reached\n\n"
                     + table(["phase", "measured, ms", "predicted, ms", "predicted / measured"], rows) + "\n")
        return text

    def launch_tables(self):
        text = ""
        for name, step in self.steps.items():
            kernels = (step.get("gpu") or {}).get("kernels") or []
            named = ", ".join(f"{kernel['kernel']} {kernel['launches']}" for kernel in kernels)
            calls = (step.get("gpu") or {}).get("traffic") or {}
            rest = calls.get("launches", 0) - sum(kernel["launches"] for kernel in kernels)
            if named:
                text += f"- {name}: {named}; burn's own: {rest if calls else NOT_MEASURED}\n"
        return text

    def markdown(self):
        stages = table(["stage", "ended", "s"], [stage.values() for stage in self.stages])
        clocks = first_line(self.folder / "clocks-before.out")
        rehearsal = "**A REHEARSAL: no number of it counts, and PyTorch ran on the CPU.** "
        return "\n".join([
            (rehearsal if (self.folder / "rehearsal").exists() else "")
            + f"Measured by `benches/gpu/run.sh` on {self.device()}" + (f" ({clocks})" if clocks else "") + ".\n",
            self.step_table(),
            self.part_table(),
            self.roofline_tables(),
            "Launches of a step by kernel:\n",
            self.launch_tables(),
            "Stages:\n",
            stages,
        ])


def main():
    folder = Path(sys.argv[1])
    run = Run(folder)
    markdown = run.markdown()
    (folder / "table.md").write_text(markdown)
    results = {name: getattr(run, name) for name in ("stages", "probe", "torch_parts", "steps", "rooflines", "torch")}
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(markdown)


main()
