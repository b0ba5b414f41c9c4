"""An OpenAI-compatible HTTP server of a policy, on the batching sampler."""
