#!/usr/bin/env bash
# Eight MPI ranks on a ring train a classifier on real data, with LT-ADMM-CC and with its competitors.
#
#   bash launch/demo.sh            # some minutes the first time; finished runs are kept
#   bash launch/demo.sh --force    # run them again
#   DECENTRAL_MPI=system bash launch/demo.sh     # with the MPI whose mpicc is on the PATH
#
# Each run is `decentral run launch/demo/ring-a9a.toml --set algorithm...`; the command is printed above it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
PATH=$(cd "${DECENTRAL_VENV:-.venv}/bin" && pwd):$PATH
python -m decentral data fetch a9a || true # once, before eight ranks ask; without a network the run falls back, and says so

ranks=8
out=results/demo
folders=()
run() { # a name, then what differs from the file
  local name=$1 sets=(--set "name=$1" --set "out=$out") folder
  shift
  for override in "$@"; do sets+=(--set "algorithm.$override"); done
  echo
  echo "\$ launch/mpirun.sh -n $ranks python -m decentral run launch/demo/ring-a9a.toml ${sets[*]@Q}"
  bash launch/mpirun.sh -n $ranks python -m decentral run launch/demo/ring-a9a.toml "${sets[@]}" "${again[@]}"
  folder=$(ls -td "$out/$name"-????????/ | head -n 1)
  folders+=("${folder%/}")
}
again=("$@")
bits8='compressor={name="quantize", bits=8}'

run lt-admm-cc name=lt-admm-cc "$bits8"
run lt-admm-cc-saga name=lt-admm-cc "$bits8" 'estimator={name="saga", batch=64}'
run lt-admm name=lt-admm
run lead name=lead "$bits8"
run cedas name=cedas "$bits8"
run cold name=cold "$bits8"
run dpdc name=dpdc "$bits8"
run choco-sgd name=choco-sgd "$bits8"
run nids name=nids
run d-psgd name=d-psgd

echo
python -m decentral compare "${folders[@]}"
python -m decentral report "${folders[@]}" --out "$out"
echo
echo "Look at $out/report.html. Next, your own step size, or your own graph:"
echo "  . ${DECENTRAL_VENV:-.venv}/bin/activate"
echo "  launch/mpirun.sh -n $ranks python -m decentral run launch/demo/ring-a9a.toml --set graph.topology=torus --set rounds=300"
