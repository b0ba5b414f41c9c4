"""Errors that a person can put right: shown without a traceback."""

from mlagent_jax import checkpoint, trajectories
from mlagent_jax.agent import history
from mlagent_jax.environment import blobs, cache, fetch, records, task_folder
from mlagent_jax.exploration import (
  accounting,
  chat,
  chat_ideas,
  embeddings,
  llm,
)
from mlagent_jax.model import safetensors_files
from mlagent_jax.stages import (
  journal,
  mirror,
  not_finite,
  processes,
  session,
  workdir,
)

EXPECTED = (
  accounting.CostCeilingError,
  blobs.BlobError,
  blobs.DiskFullError,
  cache.CacheError,
  chat.TooLongError,
  chat_ideas.TooFewIdeasError,
  checkpoint.CheckpointError,
  embeddings.EmbeddingError,
  fetch.FetchError,
  history.PromptTooLong,
  journal.JournalError,
  mirror.MirrorError,
  llm.EndpointError,
  not_finite.NotFiniteError,
  processes.LeaderError,
  processes.StartError,
  records.SandboxUnavailable,
  safetensors_files.WeightsError,
  session.ConfigError,
  task_folder.TaskError,
  trajectories.TrajectoryError,
  workdir.WorkdirError,
)
