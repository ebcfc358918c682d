#!/bin/sh
# Run the experiments of docs/findings.md that need photographs of known classes. A rerun computes only what is missing.
# Usage: pipeline/photographs.sh FOLDER [PYTHON]; names of images, or of their folders, begin with a WordNet id (n01440764_...).
# Results: runs/photographs/; `python docs/findings.py photographs runs/photographs` puts the numbers into the page.
set -eu
photographs=$(realpath "$1")
cd "$(dirname "$0")/.."
python=${2:-python}
stores=${POSENET_STORES:-stores/photographs}
runs=${POSENET_RUNS:-runs/photographs}
mkdir -p "$runs"

run() { "$python" cli.py "$@"; }
build() { run build-store --stores "$stores" --layout readout --images "$photographs" "$@"; }
with_lite0() { "$@" --backbone tf_efficientnet_lite0 --weights lite0; }
untrained() { build --weights random:0 --dtype float32 --backbone "$1"; }

lite0=$(with_lite0 build)
lite0_untrained=$(untrained tf_efficientnet_lite0)
vgg16=$(build --backbone vgg16 --weights hed)
vgg16_untrained=$(untrained vgg16)
build --backbone vgg16 --weights hed --padding none
build --backbone pixels

for name in stages symmetry erasure; do
  run sweep "$name" --stores "$stores" --run "$runs/$name"
done
run rings "$runs/stages" --stores "$stores" --where input=full:f4 --json > "$runs/rings.json"
run variance "$lite0" "$lite0_untrained" "$vgg16" "$vgg16_untrained" --json > "$runs/variance.json"
run symmetry tf_efficientnet_lite0 --weights lite0 --json > "$runs/symmetry.json"

# Erased inside the running network: do later stages compute position anew? Does the classifier need it?
for stage in f3 f4; do
  [ -e "$runs/$stage.safetensors" ] || run erase "$lite0" --stage "$stage" --out "$runs/$stage.safetensors"
  [ -e "$runs/$stage-random.safetensors" ] || run erase "$lite0" --stage "$stage" --random 0 --out "$runs/$stage-random.safetensors"
done
stores=$stores/erased
with_lite0 build --erase "$runs/f3.safetensors"
run sweep stages --stores "$stores" --run "$runs/erased_inside"
with_lite0 run accuracy "$runs/f3.safetensors" "$runs/f4.safetensors" "$runs/f3-random.safetensors" "$runs/f4-random.safetensors" \
  --images "$photographs" --json > "$runs/accuracy.json"
