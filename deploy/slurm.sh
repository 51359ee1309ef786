#!/bin/bash
# A run over two machines with four GPUs each, which goes back into the queue when its time ends, and goes on from there:
#   sbatch deploy/slurm.sh --config r2d2/atari
#SBATCH --job-name=reverie
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@90
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if [ $# = 0 ]; then
    echo "give the arguments of reverie fit: sbatch deploy/slurm.sh --config r2d2/atari" >&2
    exit 2
fi
# One folder for the job, whichever start it is: --ckpt_path last starts there, or goes on.
export REVERIE_RUN_DIR=${REVERIE_RUN_DIR:-runs/job-$SLURM_JOB_ID}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
srun reverie fit "$@" --ckpt_path last --trainer.accelerator gpu \
    --trainer.devices "$SLURM_NTASKS_PER_NODE" --trainer.num_nodes "$SLURM_NNODES" --trainer.strategy ddp
