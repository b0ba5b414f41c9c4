# XLA flags for training on several GPUs: `source launch/gpu_xla_flags.sh`.
#
# They let collectives run beside computation: the scheduler that hides their
# latency, gathers and scatters of a scan's layers pipelined over its turns, and
# collectives combined up to 128 MiB, so that each is worth its launch. Source:
# https://docs.jax.dev/en/latest/gpu_performance_tips.html
# shellcheck shell=bash
export XLA_FLAGS="${XLA_FLAGS:-} \
--xla_gpu_enable_latency_hiding_scheduler=true \
--xla_gpu_enable_pipelined_all_gather=true \
--xla_gpu_enable_pipelined_reduce_scatter=true \
--xla_gpu_enable_pipelined_all_reduce=true \
--xla_gpu_all_gather_combine_threshold_bytes=134217728 \
--xla_gpu_reduce_scatter_combine_threshold_bytes=134217728 \
--xla_gpu_all_reduce_combine_threshold_bytes=134217728"
# All of a GPU's memory but a tenth, which NCCL and CUDA need.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}"
