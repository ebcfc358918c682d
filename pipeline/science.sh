#!/bin/sh
# Run every experiment at demo size, on images and weights that need no download. A rerun computes only what is missing.
# Usage: pipeline/science.sh [PYTHON]; the result is runs/science.html. POSENET_SCIENCE_IMAGES changes the images.
set -eu
cd "$(dirname "$0")/.."
python=${1:-python}
images=${POSENET_SCIENCE_IMAGES:-synthetic:dead-leaves?n=160}
stores=stores/science
border=stores/science-border # a separate folder: otherwise these image sets would be columns in every table
other=${POSENET_SCIENCE_TESTS:-synthetic:dead-leaves?n=64&seed=1}
shown="$other@border:32:black $other@border:32:white $other@canvas:32:black $other@canvas:32:white $other@transposed"

build() { "$python" cli.py build-store --stores "$stores" --layout readout "$@"; }

for on in "$images" photos; do
  build --images "$on" --backbone pixels
  build --images "$on" --backbone vgg16 --weights hed
done
for padding in none reflect replicate circular; do
  build --images "$images" --backbone vgg16 --weights hed --padding "$padding"
done
for seed in 0 1; do
  build --images "$images" --backbone vgg16 --weights "random:$seed" --dtype float32
done
build --images "$images" --backbone resnet18 --weights random:0 --dtype float32
build --images "$images" --backbone densenet121 --weights random:0 --dtype float32
for on in "$images" $shown; do
  for network in pixels 'vgg16 --weights hed'; do
    # shellcheck disable=SC2086 # the network and its options are several words
    "$python" cli.py build-store --stores "$border" --layout aligned --images "$on" --backbone $network
  done
done

runs=
for name in table2 kernel_size padding stages stage_subsets readout_depth protocols backbone_padding untrained image_border \
  patterns training_images layers; do
  from=$stores
  [ "$name" = image_border ] && from=$border
  "$python" cli.py sweep "$name" --stores "$from" --run "runs/science/$name"
  runs="$runs runs/science/$name"
done
# shellcheck disable=SC2086 # a list of folders
"$python" cli.py report $runs --out runs/science.html
