#!/usr/bin/env bash
# Ten minutes on an NVIDIA GPU through Vulkan: is it right, how fast is it, and how fast is PyTorch on the same card.
#
#   bash run.sh [SECONDS]        default 560; in the folder that prepare.sh makes
#   REHEARSE=1 bash run.sh       every line of it on lavapipe or a shape, with sizes cut and without PyTorch, in a few minutes
#
# Everything is printed, and kept in $OUT/log.txt (default ./out). Each stage has its own limit, fails alone, and is skipped
# where the time left does not hold it: the questions that matter most come first.
seconds=${1:-560}
cd "$(dirname "$0")" || exit 1
here=$PWD
out=${OUT:-$here/out}
mkdir -p "$out"
exec > >(tee "$out/log.txt") 2>&1

# only where the machine has no loader of its own: its libraries belong to its driver
ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1' || export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# containers keep the driver's manifest elsewhere
nvidia=/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json
[ -e $nvidia ] && export VK_DRIVER_FILES=$nvidia VK_ICD_FILENAMES=$nvidia
HOME=$(mktemp -d) # shader caches
trap 'rm -rf "$HOME"' EXIT
export HOME

batch=64
rows=25216
cut=()
steps=5
if [ -n "${REHEARSE:-}" ]; then
    batch=2
    rows=788
    cut=(--image-size 64 --n-cls-prototypes 1024 --n-patch-prototypes 512)
    steps=1
fi

# name, most seconds, command
stage() {
    local name=$1 most=$2 start=$SECONDS left=$((seconds - SECONDS))
    shift 2
    if [ $left -lt 8 ]; then
        echo "## $name: SKIPPED, NO TIME LEFT"
        return
    fi
    if [ ! -x "$(command -v "$1")" ]; then
        echo "## $name: SKIPPED, THERE IS NO $1"
        return
    fi
    echo "## $name"
    timeout -k 2 $((most < left ? most : left)) "$@"
    echo "## $name: status $? after $((SECONDS - start)) s"
}
bench() { # name, most seconds, program, flags
    local name=$1 most=$2 program=$3
    shift 3
    stage "$name" "$most" "$program" bench --backend wgpu --json "$@" "${cut[@]}"
}
torch() { # name, most seconds, flags
    local name=$1 most=$2
    shift 2
    if [ -n "${REHEARSE:-}" ]; then
        echo "## $name: SKIPPED, A REHEARSAL"
        return
    fi
    stage "$name" "$most" python3 torch_step.py "$@"
}
clocks() {
    stage clocks 5 nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw,power.limit,memory.used --format=csv
}

clocks
stage devices 15 ./ibot devices
# 1. right? about two minutes
stage verify 90 ./ibot verify --backend wgpu --out "$out/verify.json"
stage probe 60 ./gpu_probe $rows
stage kernels 60 env IBOT_REQUIRE_WGPU=1 ./kernels --nocapture wgpu
# 2. how fast? about two minutes
bench step 60 ./ibot --batch-size $batch --steps $steps
bench "step of 4" 25 ./ibot --batch-size 4 --steps $((2 * steps))
stage "step, tiny" 20 ./ibot bench --backend wgpu --json --preset tiny --steps $((4 * steps))
stage "kernels beside a copy" 25 ./ibot bench --kernels --backend wgpu --steps $((4 * steps))
# 3. PyTorch on the same card, about two minutes
torch "PyTorch" 60 --batch-size $batch
torch "PyTorch, products" 25 --batch-size $batch --products
torch "PyTorch, step of 4" 20 --batch-size 4 --precisions fp32
# 4. the rest
for lanes in 32 64 1024; do
    stage "verify, $lanes lanes" 40 env IBOT_WORKGROUP=$lanes ./ibot verify --backend wgpu --out "$out/verify-$lanes.json"
done
stage "verify, tensor operations" 40 env IBOT_KERNELS=reference ./ibot verify --backend wgpu --out "$out/verify-reference.json"
bench "step, autotune" 90 ./ibot-autotune --batch-size $batch --steps $steps
stage "verify, vulkan" 40 ./ibot-vulkan verify --backend wgpu --out "$out/verify-vulkan.json"
bench "step, vulkan" 90 ./ibot-vulkan --batch-size $batch --steps $steps
bench "step, logits stored" 40 ./ibot --batch-size $((2 * batch)) --streaming-prototypes never --steps $steps
bench "step, logits streamed" 40 ./ibot --batch-size $((2 * batch)) --streaming-prototypes always --steps $steps
bench "step, checkpointing" 30 ./ibot --batch-size $batch --grad-checkpointing --steps $steps
bench "step, ViT-B" 60 ./ibot --encoder vit_base_patch16_224 --batch-size $((batch / 2)) --steps $steps
torch "PyTorch, ViT-B" 40 --encoder vit_base_patch16_224 --batch-size $((batch / 2))
clocks
