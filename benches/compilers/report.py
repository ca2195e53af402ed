"""What compilers of real GPUs make of every kernel, without a GPU: writes docs/compilers.md.

    python benches/compilers/report.py

A compiler that is not installed is left out, and said so. They are, on Debian or Ubuntu:

- AMD's: RADV of mesa-vulkan-drivers
- NVIDIA's: pip install nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-runtime nvidia-cuda-nvdisasm (350 MB)
- Intel's: intel-opencl-icd, which holds ocloc

AMD's compiler gets what it gets on a machine with that card, naga's SPIR-V. NVIDIA's and Intel's get naga's Metal, turned into
CUDA and OpenCL by dialects.py: the same loops and arrays, another front end. Needs Python 3.9, and nothing else.
"""

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import dialects

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "compilers"
OUT = ROOT / "docs" / "compilers.md"
NVIDIA = {"sm_75": "RTX 20", "sm_89": "RTX 40", "sm_90": "H100"}
INTEL = {"dg2": "Arc", "tgllp": "Xe-LP"}
# what the program never gives to Intel's GPUs: the largest tile of products, attention's tiles of 64 tokens
NOT_FOR_INTEL = ("tile_columns=128", "row_load=2")


def run(*command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, errors="replace", **more)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def program(*arguments):
    return run("cargo", "bench", "--quiet", "--locked", "--bench", "compilers", "--", *arguments, cwd=ROOT)


def amd():
    """Columns by card, each a cell by kernel."""
    columns = {}
    for line in program("amd").splitlines():
        if not line.startswith("{"):
            continue
        found = json.loads(line)
        statistics = found["statistics"]
        waves = statistics["Subgroups per SIMD"]
        text = f"{statistics['VGPRs']} r, {waves} w, {statistics['Instructions']} i"
        if found["fused"]:
            text += f", {100 * found['fused']:.0f} % f"
        spilled = statistics["Spilled VGPRs"] + statistics["Spilled SGPRs"]
        card = "AMD " + re.search(r"RADV (\w+)", found["card"])[1].lower()
        columns.setdefault(card, {})[found["name"]] = cell(text, spilled)
    return columns


def nvidia(kernels):
    """One program of all kernels, so that its headers are read once."""
    packages = Path(sysconfig.get_paths()["purelib"])
    nvcc = next(packages.glob("nvidia/*/bin/nvcc"), None) or shutil.which("nvcc")
    if not nvcc:
        return {}
    texts = [dialects.cuda(metal(kernel), entry(kernel), kernel["lanes"]) for kernel in kernels]
    source = WORK / "kernels.cu"
    source.write_text(dialects.CUDA_LIBRARY + "\n".join(texts))
    columns = {}
    for architecture, name in NVIDIA.items():
        binary = WORK / f"{architecture}.cubin"
        said = run(nvcc, f"-arch={architecture}", "-O3", "-cubin", "-Xptxas", "-v", "-w", "-o", binary, source)
        counts = instructions_of_cubin(Path(nvcc).with_name("nvdisasm"), binary)
        column = columns.setdefault(f"{name} ({architecture})", {})
        for kernel in kernels:
            part = said.split(f"Compiling entry function '{entry(kernel)}'")[1].split("Compiling entry")[0]
            registers = re.search(r"Used (\d+) registers", part)[1]
            spilled = int(re.search(r"(\d+) bytes spill stores", part)[1])
            text = f"{registers} r, {counts.get(entry(kernel), '?')} i"
            column[kernel["name"]] = cell(text, spilled, " B")
    return columns


def instructions_of_cubin(nvdisasm, binary):
    if not nvdisasm.exists():
        return {}
    counts = {}
    for section in re.split(r"^\s*\.section\s+\.text\.", run(nvdisasm, "-c", binary), flags=re.M)[1:]:
        name = re.match(r"\w+", section)[0]
        counts[name] = len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", section, re.M))
    return counts


def intel(kernels):
    """One process a kernel; the compiler's listing says what became of it."""
    if not shutil.which("ocloc"):
        return {}
    columns = {}
    for device, name in INTEL.items():
        column = columns.setdefault(f"{name} ({device})", {})
        for kernel in kernels:
            if any(part in kernel["name"] for part in NOT_FOR_INTEL):
                continue
            folder = WORK / device / kernel["stem"]
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "kernel.cl").write_text(dialects.opencl(metal(kernel), kernel["lanes"]))
            options = "-cl-std=CL3.0 -cl-single-precision-constant -cl-mad-enable -cl-fast-relaxed-math"
            run("ocloc", "compile", "-file", "kernel.cl", "-device", device, "-options", options, cwd=folder,
                env=dict(os.environ, IGC_ShaderDumpEnable="1", IGC_DumpToCustomDir=str(folder / "listing")))
            column[kernel["name"]] = cell_of_listing(folder / "listing")
    return columns


def cell_of_listing(folder):
    # the compiler tries widths until one fits: the last written is the one it took
    listings = sorted(folder.rglob("*.asm"), key=lambda path: path.stat().st_mtime)
    text = listings[-1].read_text(errors="replace")
    lanes = re.search(r"simd(\d+)", listings[-1].name)[1]
    spilled = re.search(r"//\.spill size (\d+)", text)
    count = re.search(r"//\.instCount (\d+)", text)[1]
    return cell(f"SIMD{lanes}, {count} i", int(spilled[1]) if spilled else 0, " B")


def cell(text, spilled, unit=""):
    return f"{text}, **{spilled}{unit} spilled**" if spilled else text


def metal(kernel):
    return (WORK / f"{kernel['stem']}.metal").read_text()


def entry(kernel):
    return f"k{kernel['stem']}"


def table(kernels, columns):
    head = ["kernel", "lanes", "workgroup memory", *columns]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for kernel in kernels:
        cells = [column.get(kernel["name"], "never given") for column in columns.values()]
        first = [f"`{kernel['name']}`", str(kernel["lanes"]), f"{kernel['workgroup_bytes']} B"]
        lines.append(f"| {' | '.join(first + cells)} |")
    return "\n".join(lines)


def main():
    program("write", WORK)
    kernels = json.loads((WORK / "kernels.json").read_text())
    found = {"AMD (RADV)": amd(), "NVIDIA (ptxas)": nvidia(kernels), "Intel (ocloc)": intel(kernels)}
    columns = {name: column for part in found.values() for name, column in part.items()}
    missing = [name for name, part in found.items() if not part]
    for name in missing:
        print(f"SKIPPED: THE COMPILER OF {name.upper()} IS NOT INSTALLED")
    commit = run("git", "describe", "--always", "--dirty", "--exclude=*", cwd=ROOT).strip()
    left_out = f" Left out, as not installed: {', '.join(missing)}." if missing else ""
    spills = sum("spilled" in text for column in columns.values() for text in column.values())
    # what was written by hand below the table
    by_hand = "".join(f"\n## {part}" for part in OUT.read_text().split("\n## ")[1:]) if OUT.exists() else ""
    OUT.write_text(f"""# What compilers make of the kernels

Written by `python benches/compilers/report.py`, which says what the compilers are and how they get the kernels; on
{datetime.date.today()} at commit {commit}. Nothing ran: these are registers, not speeds. wgpu 29 also has\nVulkan's drivers check every access to a buffer (robustBufferAccess2), which is not in these numbers: on NVIDIA that takes registers.{left_out}

Every kernel as a GPU runs it, without naga's checks. r: registers a lane (AMD's vector registers), w: waves that a SIMD
holds at a time, i: instructions in the program's text, f: of those that a wave runs on its lanes for a tile of terms or of
columns, the share of fused multiply-adds (benches/compilers/shares.rs; exponentials count four times, as they take); AMD spills registers, NVIDIA and Intel bytes. A few bytes on NVIDIA
are its compiler's choice: it gives up registers where another workgroup then finds room. Intel is never given the tile of
128 x 128, nor attention's tiles of 64 tokens.
{spills} of {sum(map(len, columns.values()))} do not fit their registers.

{table(kernels, columns)}
{by_hand}""")
    print(f"{len(kernels)} kernels, {len(columns)} targets, {spills} that spill: {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
