"""The editor behind Edit Script (AI) and Understand File: a chat model.

As in MLAgentBench (arXiv 2310.03302, appendix on actions): the whole script and
an instruction go to a second model, which writes the whole script back. The
environment shows the agent the difference. A model that answers with anything
but one block of code has made a mistake, and it is the agent's step that fails.
"""

import re

from mlagent_jax.environment import edits, workspace
from mlagent_jax.exploration.chat import ChatModel, TooLongError

_BLOCK = re.compile(r'```[ \t]*[\w+-]*[ \t]*\n(.*?)\n?```', re.DOTALL)
_LONGEST = 60_000  # characters of a file that are shown to the model

_EDIT = """Edit the script below as the instruction says, and change nothing\
 else. Answer with the whole edited script in one block that begins with\
 ```python and ends with ```, and with nothing besides it.

Instruction: {instruction}

```python
{text}
```"""

_UNDERSTAND = """Read the file below and answer the question about it in at\
 most 200 words. Quote the lines that your answer rests on. Say so if the file\
 does not answer it.

Question: {question}

```
{text}
```"""


class ChatEditor:
  """Carries out the two actions that a second model is needed for.

  Args:
    model: who edits and reads.
    max_tokens: of an answer; an edited script must fit.
  """

  def __init__(self, model: ChatModel, *, max_tokens: int = 4096):
    self.name = model.name
    self._model = model
    self._max_tokens = max_tokens

  def understand(self, text: str, question: str) -> str:
    """Answers a question about a file; a long file is cut, and it says so.

    Raises:
      PathError: if it is still more than the model reads.
    """
    shown = text[:_LONGEST]
    if len(text) > _LONGEST:
      shown += f'\n(cut here: {len(text) - _LONGEST} more characters)'
    asked = _UNDERSTAND.format(question=question, text=shown)
    return self._ask(asked, workspace.PathError).text

  def edit(self, text: str, instruction: str) -> str:
    """The whole text, edited.

    Raises:
      EditError: if the text is more than the model reads, or the answer was cut
        or holds no single block of code.
    """
    if len(text) > _LONGEST:
      raise edits.EditError(
        f'The script has {len(text)} characters; Edit Script (AI) takes at most'
        f' {_LONGEST}. Use Edit Script Lines.'
      )
    question = _EDIT.format(instruction=instruction, text=text.rstrip('\n'))
    answer = self._ask(question, edits.EditError)
    if answer.finish_reason == 'length':
      raise edits.EditError(
        f'The editor needed more than {self._max_tokens} tokens for the whole'
        ' script. Use Edit Script Lines for a long one.'
      )
    blocks = _BLOCK.findall(answer.text)
    if len(blocks) != 1:
      raise edits.EditError(
        f'The editor answered with {len(blocks)} blocks of code instead of one.'
        ' Say more exactly what to change.'
      )
    return blocks[0].rstrip('\n') + '\n'

  def _ask(self, text: str, refusal: type[Exception]):
    message = {'role': 'user', 'content': text}
    try:
      (answer,) = self._model.complete(
        [message], max_tokens=self._max_tokens, temperature=0.0
      )
    except TooLongError as error:
      # The agent chose the file; the run goes on.
      raise refusal(f'The editor cannot read so much: {error}') from error
    return answer
