#!/usr/bin/env bash
# Makes target/gpu_run/: all that run.sh beside this file needs on a Linux machine with a GPU, its driver, and nothing else: no
# network, no compiler, no Vulkan loader. Programs are packed, about 15 MB each.
#
#   benches/gpu/prepare.sh              this crate's default build
#   benches/gpu/prepare.sh features     also with autotune, and with autotune and vulkan: two more builds from scratch
#
# Copy the folder there, and run `bash gpu_run/run.sh`. The C library there must be as new as what this prints at the end.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
out=$target/gpu_run
rm -rf "$out"
mkdir -p "$out/lib"

keep() { # path, name: without symbols, which are most of it
    strip -o "$out/$2" "$1"
    c_library=$(printf '%s\n' "$c_library" "$(grep -aoh 'GLIBC_2\.[0-9]*' "$out/$2")" | sort -V | tail -n 1)
    gzip -9 "$out/$2"
}
c_library=
# The newest file that cargo built by this name: it adds a hash.
newest() {
    find "$target/release/deps" -maxdepth 1 -name "$1-*" ! -name '*.*' -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2
}

cargo build --release --locked --bin ibot
cargo test --release --locked --no-run --test kernels
cargo build --release --locked --bench gpu_probe
keep "$target/release/ibot" ibot
keep "$(newest kernels)" kernels
keep "$(newest gpu_probe)" gpu_probe
if [ "${1:-}" = features ]; then
    cargo build --release --locked --bin ibot --features autotune --target-dir "$target/autotune"
    keep "$target/autotune/release/ibot" ibot-autotune
    cargo build --release --locked --bin ibot --features autotune,vulkan --target-dir "$target/vulkan"
    keep "$target/vulkan/release/ibot" ibot-vulkan
fi

# the Vulkan loader, and what NVIDIA's driver opens although no window is shown: containers often lack them
for name in libvulkan.so.1 libX11.so.6 libXext.so.6 libxcb.so.1 libXau.so.6 libXdmcp.so.6 libbsd.so.0 libmd.so.0; do
    path=$(ldconfig -p | awk -v name="$name" '$1 == name && /x86-64/ {print $NF; exit}')
    if [ -n "$path" ]; then cp -L "$path" "$out/lib/"; else echo "not here, so not packed: $name"; fi
done
cp benches/gpu/run.sh benches/gpu/report.py benches/gpu/torch_step.py "$out/"

c_library=$(printf '%s\n' "$c_library" "$(grep -aoh 'GLIBC_2\.[0-9]*' "$out"/lib/*)" | sort -V | tail -n 1)
echo "$(du -sh "$out" | cut -f 1) in $out; needs $c_library"
