"""An expert that is a chat model: an endpoint's, or the policy itself.

Works in the environment like any agent: it gets the prompt of its protocol,
with ideas in its first message (ML-Agent, arXiv 2505.23723, exploration-
enriched fine-tuning), and its reply is taken word for word. What it spends is
added up, for reports.
"""

from collections.abc import Collection, Sequence

from mlagent_jax.agent import history, prompts
from mlagent_jax.environment.records import ActionName, Snapshot, Step
from mlagent_jax.exploration import accounting
from mlagent_jax.exploration.chat import ChatModel, TooLongError

# A model that goes on would invent its own observation.
STOP = ('\nObservation:',)


class ChatExpert:
  """Plays one episode by asking a chat model for every reply.

  Args:
    model: who writes.
    protocol: 'full' or 'compact'.
    allowed: the actions to offer.
    ideas: for the first message (full protocol).
    budget_tokens: the prompt has at most this many, by the model's count.
    max_tokens: of a reply.
    temperature: of sampling.
    seed: of this episode; step k asks with seed + k.

  Attributes:
    name: the model's.
    usage: what this episode's replies used.
    refused_prompts: states whose prompt is longer than the budget.
  """

  def __init__(
    self,
    model: ChatModel,
    *,
    protocol: str,
    allowed: Collection[ActionName],
    ideas: Sequence[str] = (),
    budget_tokens: int,
    max_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
  ):
    self.name = model.name
    self.usage = accounting.Usage()
    self.refused_prompts = 0
    self._model = model
    self._protocol = protocol
    self._allowed = allowed
    self._ideas = tuple(ideas)
    self._budget_tokens = budget_tokens
    self._max_tokens = max_tokens
    self._temperature = temperature
    self._seed = seed

  def reply(
    self,
    task,
    snapshot: Snapshot,
    script: str,
    steps: Sequence[Step],
  ) -> str:
    """The next reply; empty if the agent made its script too long to read.

    Raises:
      PromptTooLong, TooLongError: if the task's own script is.
      RuntimeError: what the model raises.
    """
    try:
      messages = prompts.build_prompt(
        task,
        steps,
        snapshot,
        script,
        protocol=self._protocol,
        budget_tokens=self._budget_tokens,
        count_tokens=self._model.count_tokens,
        allowed=self._allowed,
        ideas=self._ideas,
      )
      (answer,) = self._model.complete(
        messages,
        max_tokens=self._max_tokens,
        temperature=self._temperature,
        stop=STOP,
        seed=self._seed + len(steps),
      )
    except (history.PromptTooLong, TooLongError):
      # Who serves the model may count otherwise than we do.
      if not steps:
        raise
      self.refused_prompts += 1
      return ''
    self.usage += accounting.Usage(
      requests=1,
      prompt_tokens=answer.prompt_tokens,
      completion_tokens=answer.completion_tokens,
      money=answer.money,
    )
    return answer.text
