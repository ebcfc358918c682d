#!/bin/sh
# Run every experiment at demo size, on images and weights that need no download, in under 20 minutes on two CPU cores.
# A rerun computes only what is missing. `demo` and `smoke` are not run: table2 asks what they ask.
# Usage: pipeline/science.sh [PYTHON]. The result is runs/science.html; runs/science/ has the runs, and what commands print as
# JSON, which `python docs/findings.py science runs/science` puts into docs/findings.md.
# POSENET_SCIENCE_IMAGES and POSENET_SCIENCE_TESTS change the images, POSENET_SCIENCE_STORES and POSENET_SCIENCE_RUNS the folders.
set -eu
cd "$(dirname "$0")/.."
python=${1:-python}
images=${POSENET_SCIENCE_IMAGES:-synthetic:dead-leaves?n=160}
other=${POSENET_SCIENCE_TESTS:-synthetic:dead-leaves?n=48&seed=1}
stores=${POSENET_SCIENCE_STORES:-stores/science}
runs=${POSENET_SCIENCE_RUNS:-runs/science}
# Separate folders: in one, these image sets, paddings and sizes would be columns and networks in every table.
border=$stores-border paddings=$stores-paddings sizes=$stores-sizes erased=$stores-erased
mkdir -p "$runs"

run() { "$python" cli.py "$@"; }
build() { # FOLDER LAYOUT IMAGES [OPTION...]: build a store, print its path and keep it in $built
  folder=$1 layout=$2 on=$3
  shift 3
  built=$(run build-store --stores "$folder" --layout "$layout" --images "$on" \
    --data-root "${POSENET_DATA:-$stores/images}" "$@")
  echo "$built"
}
pixels() { build "$@" --backbone pixels; }
vgg16() { build "$@" --backbone vgg16 --weights hed; }
lite0() { build "$@" --backbone tf_efficientnet_lite0 --weights lite0; }
lite0_untrained() { untrained tf_efficientnet_lite0 0 "$@"; }
untrained() { # BACKBONE SEED FOLDER LAYOUT IMAGES [OPTION...]
  backbone=$1 seed=$2
  shift 2
  build "$@" --backbone "$backbone" --weights "random:$seed" --dtype float32
}

for network in pixels vgg16 lite0; do
  "$network" "$stores" readout photos
done
pixels "$stores" readout "$images"
lite0 "$stores" readout "$images"
trained=$built
set -- "$trained" # the stores whose variance is shown
lite0_untrained "$stores" readout "$images"
set -- "$@" "$built"
vgg16 "$stores" readout "$images"
set -- "$@" "$built"
untrained vgg16 0 "$stores" readout "$images"
set -- "$@" "$built"
untrained resnet18 0 "$stores" readout "$images"
untrained densenet121 0 "$stores" readout "$images"
vgg16 "$stores" readout "$images" --padding none
# Those that no question about all channels is asked of.
untrained resnet18 1 "$stores" aligned "$images"
for padding in reflect replicate circular; do
  vgg16 "$stores" aligned "$images" --padding "$padding"
done
experiments='table2 kernel_size padding stages networks stage_subsets readout_depth backbone_padding untrained
  patterns training_images layers'
for name in $experiments; do
  run sweep "$name" --stores "$stores" --run "$runs/$name"
done
sweep_on() { # NETWORKS NAME: an experiment on some of the networks
  {
    echo "networks = $1"
    run experiments show "$2" | grep -v '^networks = '
  } > "$runs/$2.toml"
  run sweep "$runs/$2.toml" --stores "$stores" --run "$runs/$2"
}
sweep_on '["vgg16-hed"]' protocols
for name in symmetry erasure; do
  sweep_on '["*lite0*", "vgg16-hed", "vgg16-random0"]' "$name"
done
sweep_on '["*lite0*"]' stage_shares # with a penalty a stage, the 1,472 channels of VGG-16 take minutes for each network
run stage-shares "$runs/stage_shares" --json > "$runs/stage_shares.json"
run leaderboard "$runs/networks"
run variance "$@" --figures "$runs" --json > "$runs/variance.json"
run symmetry tf_efficientnet_lite0 --weights lite0 --json > "$runs/symmetry.json"

# Does the content of the image's border matter? Fewer images train: the page can tell them from the set that all else trains on.
pixels "$border" aligned "$images" --limit 128
vgg16 "$border" aligned "$images" --limit 128
for on in "$other@border:32:black" "$other@border:32:white" "$other@canvas:32:black" "$other@canvas:32:white" \
  "$other@transposed"; do
  pixels "$border" aligned "$on"
  vgg16 "$border" aligned "$on"
done
run sweep image_border --stores "$border" --run "$runs/image_border"

# Does the classification network need zeros for it?
for padding in zeros circular replicate reflect; do
  lite0 "$paddings" aligned "$images" --padding "$padding"
done
run sweep backbone_padding --stores "$paddings" --run "$runs/lite0/backbone_padding"

# How far does position reach from the border, in pixels of the image?
for size in 224 448 896; do
  for network in lite0 lite0_untrained; do
    "$network" "$sizes" readout "$images" --size "$size" --batch-size 4 --limit 64 --no-probes
  done
done
run sweep border_distance --stores "$sizes" --run "$runs/border_distance"
run rings "$runs/border_distance" --stores "$sizes" --where input=full:f4 --width 32 --figures "$runs" --json > "$runs/rings.json"

# Do later stages compute position anew where H and V are erased at the third?
[ -e "$runs/f3.safetensors" ] || run erase "$trained" --stage f3 --out "$runs/f3.safetensors"
lite0 "$erased" readout "$images" --erase "$runs/f3.safetensors"
run sweep stages --stores "$erased" --run "$runs/erased_inside"

set --
for name in $experiments protocols symmetry erasure stage_shares image_border lite0/backbone_padding border_distance; do
  set -- "$@" "$runs/$name"
done
run report "$@" --out "$runs.html"
