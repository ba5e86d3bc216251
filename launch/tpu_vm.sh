#!/usr/bin/env bash
# launch/tpu_vm.sh NAME ZONE CONFIG WORKDIR: copy this checkout to a TPU VM that exists,
# set it up, and train there in the background on all cores of its one host.
set -euo pipefail
if [ $# -ne 4 ]; then
  echo "usage: launch/tpu_vm.sh NAME ZONE CONFIG WORKDIR" >&2
  exit 2
fi
name=$1 zone=$2 config=$3 workdir=$4
cd "$(dirname "${BASH_SOURCE[0]}")/.."
archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz -o "$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$name:mmc_jax.tar.gz" --zone="$zone"
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --command="
  set -e
  mkdir -p mmc_jax && tar -xzf mmc_jax.tar.gz -C mmc_jax && cd mmc_jax
  python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e '.[tpu]'
  nohup .venv/bin/python launch/train.py --config='$config' --workdir='$workdir' \
    --noprogress > train.log 2>&1 &
  echo 'Training; the log is mmc_jax/train.log on $name.'"
