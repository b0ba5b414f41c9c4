"""Who can be evaluated: names on the command line -> agents that reply.

  starter           the task's script as it is; plays nothing
  untrained sft rl  the policy of a training run, before and after its stages
  scripted          the expert that wrote the trajectories
  random            valid actions, drawn at random
  endpoint:MODEL    a model behind an OpenAI-compatible endpoint

A contestant gives a `Seat` for each episode; whoever has `reply` can sit
there. A new kind of agent is one class here and one line in `make`.
"""

import contextlib
import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import jax
import numpy as np

from mlagent_jax.agent import prompts
from mlagent_jax.environment import episode, records, task_folder
from mlagent_jax.exploration import (
  accounting,
  chat_expert,
  diversity,
  expert,
  ideas,
  llm,
  random_agent,
)
from mlagent_jax.stages import session, trained
from mlagent_jax.stages.evaluation import policies
from mlagent_jax.stages.evaluation.usage import Usage

STARTER = 'starter'
ENDPOINT = 'endpoint:'
NAMES = (STARTER, *trained.STAGES, 'scripted', 'random')
SEED_STREAM = 101


@dataclasses.dataclass(frozen=True)
class Seat:
  """An agent for one episode.

  Attributes:
    agent: replies.
    usage: what its replies took so far.
    ideas: that it was given; recorded.
  """

  agent: episode.Agent
  usage: Callable[[], Usage] = Usage
  ideas: tuple[str, ...] = ()


class Contestant(Protocol):
  """Gives an agent for every episode.

  Attributes:
    name: as on the command line.
    identity: what must be the same when its episodes are continued later.
  """

  name: str
  identity: Mapping[str, object]

  def seat(self, task: task_folder.Task, number: int) -> Seat:
    """The agent of a task's episode `number`."""


@dataclasses.dataclass(frozen=True)
class EndpointOptions:
  """Where 'endpoint:MODEL' is, and what it costs; see `llm.EndpointConfig`.

  Attributes:
    base_url: empty: $OPENAI_BASE_URL, or OpenAI's own.
    api_key_variable: environment variable that holds the key.
    prompt_price: of a million tokens.
    completion_price: of a million tokens.
    max_cost: money to spend, over all starts with one ledger; 0: no limit.
    ledger: file of what was spent; None keeps no account between starts.
    max_prompt_tokens: of a prompt, by an upper estimate.
    max_reply_tokens: of a reply.
  """

  base_url: str = ''
  api_key_variable: str = 'OPENAI_API_KEY'
  prompt_price: float = 0.0
  completion_price: float = 0.0
  max_cost: float = 0.0
  ledger: pathlib.Path | None = None
  max_prompt_tokens: int = 12_000
  max_reply_tokens: int = 1000


@dataclasses.dataclass(frozen=True)
class Options:
  """What contestants need to know; see the flags of evaluate.py."""

  protocol: str
  allowed: frozenset[records.ActionName]
  max_steps: int
  seed: int
  temperature: float
  batch_size: int
  max_prompt_tokens: int = 0
  dollars_per_hour: float = 0.0
  endpoint: EndpointOptions = EndpointOptions()


def rng_of(seed: int, task: str, number: int) -> np.random.Generator:
  """An episode's generator; the same whichever tasks are evaluated with it."""
  return np.random.default_rng(
    [seed, SEED_STREAM, zlib.crc32(task.encode()), number]
  )


class Random:
  """Contestant 'random'."""

  name = 'random'

  def __init__(self, options: Options):
    self._options = options
    self.identity = {}

  def seat(self, task: task_folder.Task, number: int) -> Seat:
    """See `Contestant`."""
    rng = rng_of(self._options.seed, task.name, number)
    agent = random_agent.RandomAgent(
      self._options.allowed,
      protocol=self._options.protocol,
      seed=int(rng.integers(2**31)),
    )
    return Seat(agent)


class Scripted:
  """Contestant 'scripted': each episode draws 1 to 3 of 10 diverse ideas."""

  name = 'scripted'
  diverse = 10
  drawn = (1, 3)

  def __init__(self, options: Options):
    self._options = options
    self._chosen: dict[str, tuple[ideas.Idea, ...]] = {}
    self.identity = {'diverse_ideas': self.diverse, 'drawn': list(self.drawn)}

  def seat(self, task: task_folder.Task, number: int) -> Seat:
    """See `Contestant`."""
    chosen = self._ideas(task)
    rng = rng_of(self._options.seed, task.name, number)
    low, high = self.drawn
    count = min(len(chosen), int(rng.integers(low, high + 1)))
    own = [chosen[i] for i in rng.choice(len(chosen), count, replace=False)]
    agent = expert.ScriptedExpert(
      own,
      others=chosen,
      protocol=self._options.protocol,
      seed=int(rng.integers(2**31)),
    )
    return Seat(agent, ideas=tuple(idea.text for idea in own))

  def _ideas(self, task: task_folder.Task) -> tuple[ideas.Idea, ...]:
    if task.name not in self._chosen:
      script = (task.starter_folder / task.entry).read_text(encoding='utf-8')
      written = ideas.write_ideas(task, script)
      vectors = diversity.ngram_embedding([idea.text for idea in written])
      picked = diversity.furthest_points(
        vectors, min(self.diverse, len(written))
      )
      self._chosen[task.name] = tuple(written[index] for index in picked)
    return self._chosen[task.name]


class Endpoint:
  """Contestant 'endpoint:MODEL'; asks for the model when it is made.

  Raises:
    EndpointError: if it cannot be used.
    ConfigError: if a ceiling has no price to go with it, prices or the ceiling
      are negative, or the ledger is damaged.
  """

  def __init__(self, name: str, options: Options):
    chosen = options.endpoint
    if chosen.max_cost and not (chosen.prompt_price or chosen.completion_price):
      raise session.ConfigError(
        f'--max_cost is {chosen.max_cost}, but the prices of tokens are 0: set'
        ' --prompt_price and --completion_price (for a million tokens)'
      )
    self.name = name
    self._options = options
    try:
      prices = accounting.Prices(chosen.prompt_price, chosen.completion_price)
      ledger = accounting.Ledger(chosen.ledger, ceiling=chosen.max_cost or None)
    except ValueError as error:
      raise session.ConfigError(f'{name}: {error}') from error
    self.model = llm.Endpoint(
      llm.EndpointConfig(
        model=name.removeprefix(ENDPOINT),
        base_url=chosen.base_url,
        api_key_variable=chosen.api_key_variable,
        prices=prices,
      ),
      ledger,
    )
    self.model.check()
    self.identity = {
      'temperature': options.temperature,
      'max_prompt_tokens': chosen.max_prompt_tokens,
      'max_reply_tokens': chosen.max_reply_tokens,
    }

  def seat(self, task: task_folder.Task, number: int) -> Seat:
    """See `Contestant`."""
    options = self._options
    agent = chat_expert.ChatExpert(
      self.model,
      protocol=options.protocol,
      allowed=options.allowed,
      budget_tokens=options.endpoint.max_prompt_tokens,
      max_tokens=options.endpoint.max_reply_tokens,
      temperature=options.temperature,
      seed=int(rng_of(options.seed, task.name, number).integers(2**31)),
    )

    def usage() -> Usage:
      used = agent.usage
      return Usage(
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        dollars=used.money,
        refused_prompts=agent.refused_prompts,
      )

    return Seat(agent, usage=usage)


class Policy:
  """Contestants 'untrained', 'sft' and 'rl'.

  Args:
    run: the training run.
    stage: whose parameters.
    options: of the evaluation.
    server: samples from them.
  """

  def __init__(
    self, run: trained.Trained, stage: str, options: Options, server
  ):
    self.name = stage
    self._run = run
    self._options = options
    self._server = server
    self._budget = (
      options.max_prompt_tokens or run.config.agent.max_prompt_tokens
    )
    self.identity = {
      'checkpoint': run.fingerprint,
      'step': run.step(stage),
      'temperature': options.temperature,
      'max_prompt_tokens': self._budget,
      'max_action_tokens': run.config.agent.max_action_tokens,
    }

  def seat(self, task: task_folder.Task, number: int) -> Seat:
    """See `Contestant`."""
    rng = rng_of(self._options.seed, task.name, number)
    agent = policies.PolicyAgent(
      self.name,
      self._server,
      self._prompt_ids,
      [int(s) for s in rng.integers(2**32, size=self._options.max_steps)],
      dollars_per_hour=self._options.dollars_per_hour,
    )
    return Seat(agent, usage=lambda: agent.usage)

  def _prompt_ids(self, task, snapshot, script, steps) -> Sequence[int]:
    tokenizer = self._run.learner.tokenizer
    messages = prompts.build_prompt(
      task,
      steps,
      snapshot,
      script,
      protocol=self._options.protocol,
      budget_tokens=self._budget,
      count_tokens=lambda m: len(tokenizer.encode_prompt(m)),
      allowed=self._options.allowed,
    )
    return tokenizer.encode_prompt(messages)


@contextlib.contextmanager
def open_policy(
  run: trained.Trained, stage: str, options: Options
) -> Iterator[Policy]:
  """A contestant of a training run; its parameters are freed at the end."""
  policy = run.learner.policy(
    samples_per_prompt=1,
    batch_size=options.batch_size,
    temperature=options.temperature,
    prompt_length=options.max_prompt_tokens or None,
  )
  with policies.PolicyServer(
    policy,
    run.params(stage),
    batch_size=options.batch_size,
    devices=jax.device_count(),
  ) as server:
    yield Policy(run, stage, options, server)


def check_names(names: Sequence[str], has_checkpoint: bool) -> None:
  """Finds what is wrong with a list of agents before anything is played.

  Raises:
    ConfigError: names the agent and what to do.
  """
  if len(set(names)) < len(names):
    raise session.ConfigError(f'--agents names one twice: {",".join(names)}')
  for name in names:
    if name not in NAMES and not name.startswith(ENDPOINT):
      raise session.ConfigError(
        f'--agents: there is no agent {name!r}; there are {", ".join(NAMES)}'
        ' and endpoint:MODEL'
      )
    if name in trained.STAGES and not has_checkpoint:
      raise session.ConfigError(
        f'--agents: {name!r} is a policy of a training run: name its work'
        ' directory with --checkpoint'
      )


@contextlib.contextmanager
def make(
  name: str, options: Options, run: trained.Trained | None
) -> Iterator[Contestant]:
  """The contestant of a name that `check_names` let pass."""
  if name == 'scripted':
    yield Scripted(options)
  elif name == 'random':
    yield Random(options)
  elif name.startswith(ENDPOINT):
    yield Endpoint(name, options)
  else:
    with open_policy(run, name, options) as policy:
      yield policy
