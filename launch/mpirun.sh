#!/usr/bin/env bash
# mpirun with the flags that this machine needs and no others; runs `launch/mpirun.sh -n 8 command...`.
#
#   launch/mpirun.sh -n 8 python -m decentral run config.toml
#
# Open MPI refuses root, and more ranks than cores, unless told otherwise; MPICH accepts both. Inside the job of a scheduler,
# or with a hostfile, these decide where ranks go. One thread per rank: the ranks are the parallelism. DRY_RUN=1 prints the
# command.
set -euo pipefail
[[ ${1:-} == -n && ${2:-} =~ ^[0-9]+$ && $# -gt 2 ]] || { echo "usage: launch/mpirun.sh -n RANKS command..." >&2; exit 2; }
ranks=$2

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${DECENTRAL_VENV:-$here/.venv}
[[ -d $venv/bin ]] && PATH=$(cd "$venv/bin" && pwd):$PATH
command -v mpirun >/dev/null || { echo "mpirun.sh: no mpirun found: bash launch/setup.sh installs one" >&2; exit 2; }

cores=$(env -u OMP_NUM_THREADS nproc)
read -r quota period 2>/dev/null </sys/fs/cgroup/cpu.max || quota=max # of a container, which nproc does not know
[[ $quota != max ]] && ((quota = (quota + period - 1) / period, cores = quota < cores ? quota : cores))
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
flags=()
# Schedulers (the third is LSF, the fourth SGE), hostfiles, and a choice of networks that was made already.
elsewhere=${SLURM_JOB_ID:-}${PBS_JOBID:-}${LSB_JOBID:-}${PE_HOSTFILE:-}${OAR_JOB_ID:-}${COBALT_JOBID:-}
elsewhere+=${PRTE_MCA_prte_default_hostfile:-}${OMPI_MCA_orte_default_hostfile:-}${OMPI_MCA_btl:-}
[[ $3 == -*host* ]] && elsewhere+=$3 # --host, --hostfile
version=$(mpirun --version 2>&1 || true)
if [[ $version == *"Open MPI"* ]]; then
  [[ $(id -u) == 0 ]] && flags+=(--allow-run-as-root)
  if [[ -z $elsewhere ]]; then # this machine alone
    flags+=(--oversubscribe --bind-to none)
    # Shared memory, and no time spent on looking for networks.
    [[ $version == *"Open MPI) 5."* ]] && export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,sm
    # A waiting rank gives its core to a working one, or to whatever else runs on this machine.
    [[ $ranks -ge $cores ]] && export OMPI_MCA_mpi_yield_when_idle=1
  fi
fi
[[ -n ${DRY_RUN:-} ]] && { echo mpirun "${flags[@]}" "$@"; exit 0; }
exec mpirun "${flags[@]}" "$@"
