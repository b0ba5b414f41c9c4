"""Trains LLM agents to do machine-learning engineering, in JAX."""
