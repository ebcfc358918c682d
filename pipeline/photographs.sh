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

# What stands where in photographs: other images in folders of their own, so that no other table has a row for them.
# Crops at random places take it away, mirror images turn it round; zero padding must not care.
vgg16_on() { # FOLDER IMAGES [OPTION...]
  folder=$stores/$1 on=$2
  shift 2
  run build-store --stores "$folder" --layout readout --images "$on" --backbone vgg16 --weights hed "$@"
}
vgg16_on mirrored "$photographs@mirrored" --padding none
vgg16_on cropped "$photographs@cropped:0" --padding none
vgg16_on cropped "$photographs@cropped:0"
for change in mirrored cropped; do
  run sweep symmetry --stores "$stores/$change" --run "$runs/symmetry-$change"
done

# Other values beyond the border of the same trained network; the paper's readout, with zeros and without padding.
for padding in circular replicate reflect; do
  vgg16_on paddings "$photographs" --padding "$padding"
done
run sweep stages --stores "$stores/paddings" --run "$runs/stages-paddings"
run sweep backbone_padding --stores "$stores" --run "$runs/backbone_padding"

# Erased inside the running network: do later stages compute position anew? Does the classifier need it?
erase() { # NAME [OPTION...]: write an eraser and five random ones beside it
  name=$1
  shift
  [ -e "$runs/$name.safetensors" ] || run erase "$lite0" --out "$runs/$name.safetensors" "$@"
  for seed in 0 1 2 3 4; do
    [ -e "$runs/$name-random$seed.safetensors" ] ||
      run erase "$lite0" --out "$runs/$name-random$seed.safetensors" --random "$seed" "$@"
  done
}
erase f3 --stage f3
erase f4 --stage f4
erase all --images "$photographs"
if [ ! -e "$runs/accuracy.json" ]; then
  with_lite0 run accuracy "$runs"/f3*.safetensors "$runs"/f4*.safetensors "$runs"/all*.safetensors \
    --images "$photographs" --json > "$runs/accuracy.part"
  mv "$runs/accuracy.part" "$runs/accuracy.json"
fi
erased_at() { # NAME FOLDER RUN: heads on a network that is erased
  with_lite0 run build-store --stores "$stores/$2" --layout readout --images "$photographs" --erase "$runs/$1.safetensors"
  run sweep stages --stores "$stores/$2" --run "$runs/$3"
}
erased_at f3 erased erased_inside
erased_at all everywhere erased_everywhere
