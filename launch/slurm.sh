#!/usr/bin/env bash
# sbatch launch/slurm.sh CONFIG WORKDIR [FLAG ...]: train on all GPUs of one node.
#SBATCH --job-name=mmc_jax
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: sbatch launch/slurm.sh CONFIG WORKDIR [FLAG ...]" >&2
  exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}"
# A requeued job runs the same command and goes on from the last checkpoint.
exec .venv/bin/python launch/train.py --config="$1" --workdir="$2" --noprogress "${@:3}"
