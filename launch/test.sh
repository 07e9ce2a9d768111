#!/usr/bin/env bash
# All tests: style, types, the serial ones, those of the transport under mpirun on 2, 3 and 4 ranks, and on 6 and 8
# ranks that a method computes the same bits.
#
#   bash launch/test.sh                      # everything, some minutes
#   bash launch/test.sh tests/operators      # the checks, and these tests only
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh test
PATH=$(cd "${DECENTRAL_VENV:-.venv}/bin" && pwd):$PATH
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MPLBACKEND=Agg
paths=("$@") workers=()
[[ $# != 0 ]] || workers=(-n auto --maxprocesses 4 --dist worksteal)
failed=()
step() { # a title, then a command; a failure is remembered and the rest still runs
  echo; echo "== $1"; shift
  "$@" || failed+=("$*")
}

step "style" ruff check --quiet --output-format concise .
step "types" mypy
step "serial tests" python -m pytest -q -m "not mpi" "${workers[@]}" "${paths[@]}"
if [[ ${#paths[@]} == 0 ]]; then
  for ranks in 2 3 4; do
    step "transport tests on $ranks ranks" timeout 600 bash launch/mpirun.sh -n $ranks python -m pytest -q -x --color=no --with-mpi -m mpi
  done
  for ranks in 6 8; do
    step "the same bits on $ranks ranks" timeout 600 bash launch/mpirun.sh -n $ranks python -m pytest -q -x --color=no --with-mpi -m mpi tests/layout
  done
fi

echo
[[ ${#failed[@]} == 0 ]] || { printf 'FAILED: %s\n' "${failed[@]}"; exit 1; }
echo "all passed"
