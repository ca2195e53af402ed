#!/usr/bin/env bash
# One pass of ibot-desktop in a real window: opens it on the demo's images under Xvfb, drives it by keyboard, and
# takes screenshots of it. Its title tells how far it is.
#
# usage: apps/desktop/drive.sh OUT [BACKEND]
#
# Needs Xvfb, xdotool and ImageMagick, a Vulkan device (lavapipe will do), and both programs:
#   cargo build --release
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:?usage: apps/desktop/drive.sh OUT [BACKEND]}
backend=${2:-auto}
programs=${CARGO_TARGET_DIR:-target}/release
mkdir -p "$out"
work=$(mktemp -d)
jobs_of_this_script=()
finish() {
    kill "${jobs_of_this_script[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

die() {
    echo "FAIL: $*" >&2
    import -window root "$out/failed.png" 2>/dev/null || true
    tail -n 20 "$work/desktop.log" >&2 || true
    exit 1
}

# until the window's title has this in it, and is another than the second argument
until_title() {
    for _ in $(seq 600); do
        kill -0 "$desktop" 2>/dev/null || die "the window is gone before: $1"
        title=$(xdotool getwindowname "$window" 2>/dev/null || true)
        [[ $title == *"$1"* && $title != "${2:-}" ]] && return
        sleep 0.2
    done
    die "the title is '$title', not '$1', after two minutes"
}

# one of the window; one color alone would be a window that draws nothing
screenshot() {
    sleep 2
    import -window root "$out/$1.png"
    colors=$(identify -format %k "$out/$1.png")
    [ "$colors" -gt 500 ] || die "$1.png has $colors colors"
}

echo "training a small model for the window ..."
"$programs/ibot" train --backend flex --steps "${IBOT_DESKTOP_STEPS:-60}" --out "$work/run" >"$work/train.log" 2>&1 ||
    { cat "$work/train.log" >&2; exit 1; }
data=$(sed -n 's/.*"data": *"\([^"]*\)".*/\1/p' "$work/run/run.json" | head -n 1)
cp -r "$data" "$work/images"

export XDG_RUNTIME_DIR=$work
export DISPLAY=:$((90 + RANDOM % 400))
Xvfb "$DISPLAY" -screen 0 1280x820x24 -nolisten tcp >"$work/xvfb.log" 2>&1 &
jobs_of_this_script+=($!)
for _ in $(seq 50); do xdotool getdisplaygeometry >/dev/null 2>&1 && break; sleep 0.1; done

"$programs/ibot-desktop" "$work/images" --model "$work/run/teacher.safetensors" --backend "$backend" --preset demo >"$work/desktop.log" 2>&1 &
desktop=$!
jobs_of_this_script+=("$desktop")
for _ in $(seq 300); do
    window=$(xdotool search --onlyvisible --name ibot 2>/dev/null | head -n 1 || true)
    [ -n "$window" ] && break
    kill -0 "$desktop" 2>/dev/null || die "no window"
    sleep 0.1
done
[ -n "$window" ] || die "no window after half a minute"
xdotool windowmove "$window" 0 0 windowsize "$window" 1280 820 windowfocus "$window"

count=$(find "$work/images" -name '*.png' | wc -l)
until_title "$count of $count images embedded"
for key in Right Down Down Right Right; do xdotool key "$key"; sleep 0.3; done
screenshot attention
xdotool key p
screenshot patches
xdotool mousemove 523 11 click 1 # Light
screenshot light
brightness=$(convert "$out/light.png" -colorspace Gray -format '%[fx:int(100*mean)]' info:)
[ "$brightness" -gt 60 ] || die "light.png is dark: $brightness %"
xdotool key ctrl+2
sleep 1
xdotool key ctrl+Return
until_title "step 1" # 10 to 19, or 100 and more
sleep 6             # the second image of the patches comes after five seconds
screenshot training
xdotool key ctrl+Return # stops the run, with a checkpoint
until_title "images embedded"
[ -d "$work/images-ibot/checkpoints" ] || die "the stopped run left no checkpoint"
stopped=$(ls "$work/images-ibot/checkpoints")
xdotool key ctrl+Return # the run goes on from there
until_title "step " # that of the checkpoint, before the run has made one
until_title "step " "$title"
xdotool key ctrl+q  # the window closes once the checkpoint is written
wait "$desktop" || die "the window ended with status $?"
[ "$(ls "$work/images-ibot/checkpoints")" != "$stopped" ] || die "quitting during the run left no checkpoint"
echo "PASS: $out/attention.png, patches.png, light.png, training.png"
