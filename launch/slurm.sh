#!/usr/bin/env bash
# Template for a Slurm cluster: one agent per task. Once, on the login node and with your MPI module loaded:
#
#   DECENTRAL_MPI=system bash launch/setup.sh
#
# then, for each experiment:
#
#   sbatch --ntasks=64 launch/slurm.sh config.toml --set graph.agents=64
#
# A job that is stopped (time limit, scancel) writes a checkpoint; add --resume to continue, also with other --ntasks.
#SBATCH --job-name=decentral
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=1
#SBATCH --time=00:30:00
#SBATCH --signal=TERM@60
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
. "${DECENTRAL_VENV:-.venv}/bin/activate"
# module load openmpi      # the same MPI as at setup
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
# srun must speak the protocol of the MPI. Where the site names none: PMIx for Open MPI, PMI-2 for MPICH and its kin.
if [[ -z ${SLURM_MPI_TYPE:-} && $(scontrol show config) =~ MpiDefault\ *=\ none ]]; then
  [[ $(mpirun --version 2>&1) == *"Open MPI"* ]] && SLURM_MPI_TYPE=pmix || SLURM_MPI_TYPE=pmi2
  export SLURM_MPI_TYPE
fi
exec srun python -m decentral run "$@" # where srun cannot start your MPI: mpirun python -m decentral run "$@"
