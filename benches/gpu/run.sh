#!/usr/bin/env bash
# Nine minutes on a GPU: is it right, how fast is each kernel beside the card's copies and best products, how long is a step,
# and how fast is PyTorch on the same card.
#
#   bash run.sh [SECONDS]        default 540; in the folder that prepare.sh makes
#   REHEARSE=1 bash run.sh       every line of it on lavapipe or a shape, with sizes cut and ten times the time
#
# What it needs is checked first. Each stage has its own limit, fails alone, and is skipped where the time left does not hold
# it: the questions that matter most come first. All is printed, and in $OUT (default ./out): log.txt, a file of each stage,
# table.md for docs/performance.md, results.json.
cd "$(dirname "$0")" || exit 1
here=$PWD
out=${OUT:-$here/out}
mkdir -p "$out" || exit 1
rm -f "$out"/*.out "$out"/stages.tsv "$out"/rehearsal
exec > >(tee "$out/log.txt") 2>&1

HOME=$(mktemp -d) # shader caches
trap 'rm -rf "$HOME"' EXIT
export HOME
bin=$HOME/bin
mkdir "$bin"
for packed in ./*.gz; do
    [ -e "$packed" ] || continue
    name=$(basename "$packed" .gz)
    gzip -dc "$packed" >"$bin/$name" && chmod +x "$bin/$name"
done
# only where the machine has no Vulkan loader of its own: its libraries belong to its driver
ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1' || export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# containers keep NVIDIA's manifest elsewhere
nvidia=/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json
[ -e $nvidia ] && export VK_DRIVER_FILES=$nvidia VK_ICD_FILENAMES=$nvidia

batch=64
rows=25216
cut=()
tiny=()
steps=5
torch_device=cuda
slack=1
if [ -n "${REHEARSE:-}" ]; then
    batch=2
    rows=788
    cut=(--image-size 64 --n-cls-prototypes 1024 --n-patch-prototypes 512)
    tiny=(--batch-size 4)
    steps=1
    torch_device=cpu
    slack=10
    touch "$out/rehearsal"
fi

seconds=${1:-$((540 * slack))}

# --- what is needed
echo "## needed"
fail() {
    echo "MISSING: $1"
    exit 1
}
for name in ibot gpu_probe kernels; do
    [ -x "$bin/$name" ] || fail "$name.gz: prepare.sh makes this folder"
done
"$bin/ibot" --version || fail "ibot does not start here: see the C library that prepare.sh names"
"$bin/ibot" devices || fail "the list of GPUs"
adapter=$("$bin/ibot" devices 2>/dev/null | grep -i vulkan) || fail "a Vulkan driver for this GPU"
if [ -z "${REHEARSE:-}" ] && ! grep -qiv 'software\|llvmpipe\|cpu' <<<"$adapter"; then
    fail "a GPU: there is only a software one (REHEARSE=1 runs on it)"
fi
has_torch=
if ! command -v python3 >/dev/null; then
    echo "there is no python3: no table, and no PyTorch"
elif ! python3 -c "import timm, torch; assert '$torch_device' == 'cpu' or torch.cuda.is_available()" 2>/dev/null; then
    echo "there is no PyTorch with timm and this GPU: its stages are skipped"
else
    has_torch=1
fi
command -v nvidia-smi >/dev/null || echo "there is no nvidia-smi: clocks are not noted"

# name, most seconds, command
stage() {
    local name=$1 most=$(($2 * slack)) start=$SECONDS left=$((seconds - SECONDS)) status
    shift 2
    if [ $left -lt 8 ]; then
        echo "## $name: SKIPPED, NO TIME LEFT"
        printf '%s\tskipped, no time left\t0\n' "$name" >>"$out/stages.tsv"
        return
    fi
    if [ ! -x "$(command -v "$1")" ]; then
        echo "## $name: SKIPPED, THERE IS NO $1"
        printf '%s\tskipped, there is no %s\t0\n' "$name" "$(basename "$1")" >>"$out/stages.tsv"
        return
    fi
    echo "## $name"
    timeout -k 2 $((most < left ? most : left)) "$@" | tee "$out/$name.out"
    status=${PIPESTATUS[0]}
    echo "## $name: status $status after $((SECONDS - start)) s"
    printf '%s\tstatus %s\t%s\n' "$name" "$status" "$((SECONDS - start))" >>"$out/stages.tsv"
}
bench() { # name, most seconds, program, flags
    local name=$1 most=$2 program=$3
    shift 3
    stage "$name" "$most" "$bin/$program" bench --backend wgpu --json "$@" "${cut[@]}"
}
torch() { # name, most seconds, flags
    local name=$1 most=$2
    shift 2
    if [ -z "$has_torch" ]; then
        echo "## $name: SKIPPED, THERE IS NO PYTORCH"
        printf '%s\tskipped, there is no PyTorch\t0\n' "$name" >>"$out/stages.tsv"
        return
    fi
    stage "$name" "$most" python3 torch_step.py --device $torch_device "$@" "${cut[@]}"
}
clocks() {
    stage "$1" 5 nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw,power.limit,memory.used --format=csv
}

clocks clocks-before
# 1. right? about two minutes
stage verify 60 "$bin/ibot" verify --backend wgpu --out "$out/verify.json"
stage probe 80 "$bin/gpu_probe" --json $rows
# 2. how fast is a step, and what bounds it? about two minutes
bench step-$batch 60 ibot --roofline --batch-size $batch --steps $steps
bench step-4 25 ibot --batch-size 4 --steps $((2 * steps))
bench step-tiny 20 ibot --preset tiny "${tiny[@]}" --steps $((4 * steps))
# 3. PyTorch on the same card, about two minutes
torch torch-$batch 60 --batch-size $batch --steps $steps
torch torch-parts 35 --rows $rows --parts
torch torch-4 20 --batch-size 4 --steps $steps
# 4. the rest
stage kernels 60 env IBOT_REQUIRE_WGPU=1 "$bin/kernels" --nocapture wgpu
bench step-checkpointing 25 ibot --batch-size $batch --grad-checkpointing --steps $steps
bench step-base 40 ibot --encoder vit_base_patch16_224 --batch-size $((batch / 2)) --steps $steps
torch torch-base 40 --encoder vit_base_patch16_224 --batch-size $((batch / 2)) --steps $steps
for lanes in 32 64 1024; do
    stage verify-$lanes-lanes 30 env IBOT_WORKGROUP=$lanes "$bin/ibot" verify --backend wgpu --out "$out/verify-$lanes.json"
done
stage verify-tensor-operations 30 env IBOT_KERNELS=reference "$bin/ibot" verify --backend wgpu --out "$out/verify-reference.json"
bench step-streamed 40 ibot --batch-size $((2 * batch)) --streaming-prototypes always --steps $steps
bench step-autotune 90 ibot-autotune --batch-size $batch --steps $steps
stage verify-vulkan 40 "$bin/ibot-vulkan" verify --backend wgpu --out "$out/verify-vulkan.json"
bench step-vulkan 90 ibot-vulkan --batch-size $batch --steps $steps
clocks clocks-after

if command -v python3 >/dev/null; then
    echo "## table"
    python3 report.py "$out"
fi
