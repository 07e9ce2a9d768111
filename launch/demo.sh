#!/usr/bin/env bash
# Eight MPI ranks on a ring train a classifier on real data, with LT-ADMM-CC and with its competitors.
#
#   bash launch/demo.sh            # some minutes the first time; finished runs are kept
#   bash launch/demo.sh --force    # run them again
#   DECENTRAL_MPI=system bash launch/demo.sh     # with the MPI whose mpicc is on the PATH
#
# Each run is `decentral run launch/demo/ring-a9a.toml --set ...`; the command is printed above it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
PATH=$(cd "${DECENTRAL_VENV:-.venv}/bin" && pwd):$PATH

ranks=8
out=results/demo
data=()
python -m decentral data fetch a9a || { # once, before eight ranks ask
  echo "demo: without a9a, this is breast-cancer, which comes with scikit-learn"
  data=(data.name=breast-cancer) out=results/demo-breast-cancer
}
folders=()
again=("$@")
run() { # a name, then what differs from the file
  local name=$1 sets=(--set "name=$1" --set "out=$out") folder
  shift
  for override in "$@" "${data[@]}"; do sets+=(--set "$override"); done
  echo
  echo "\$ launch/mpirun.sh -n $ranks python -m decentral run launch/demo/ring-a9a.toml $(printf '%q ' "${sets[@]}")"
  bash launch/mpirun.sh -n $ranks python -m decentral run launch/demo/ring-a9a.toml "${sets[@]}" "${again[@]}"
  folder=$(ls -td "$out/$name"-????????/ | head -n 1)
  folders+=("${folder%/}")
}
bits8='algorithm.compressor={name="quantize", bits=8}'
saga='algorithm.estimator={name="saga", batch=64}'

run lt-admm-cc algorithm.name=lt-admm-cc "$bits8"
run lt-admm-cc-saga algorithm.name=lt-admm-cc "$bits8" "$saga"
run lt-admm algorithm.name=lt-admm
run lead algorithm.name=lead "$bits8"
run cedas algorithm.name=cedas "$bits8"
run cold algorithm.name=cold "$bits8"
run dpdc algorithm.name=dpdc "$bits8"
run choco-sgd algorithm.name=choco-sgd "$bits8" rounds=300 # on its floor long before
run nids algorithm.name=nids
run d-psgd algorithm.name=d-psgd rounds=300

echo
python -m decentral compare "${folders[@]}"
python -m decentral report "${folders[@]}" --out "$out"
echo
echo "Look at $out/report.html. Next, your own step size, or your own graph:"
echo "  . ${DECENTRAL_VENV:-.venv}/bin/activate"
echo "  launch/mpirun.sh -n $ranks python -m decentral run launch/demo/ring-a9a.toml --set graph.topology=torus --set rounds=300"
