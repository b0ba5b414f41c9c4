"""The tokenizer of a run: a saved one, or the toy's, trained once."""

from mlagent_jax import trajectories
from mlagent_jax.agent import tokenizer as tokenizer_lib
from mlagent_jax.stages import mirror
from mlagent_jax.stages.session import Session


def load_or_train(session: Session):
  """The run's tokenizer.

  'sentencepiece' is trained on the prompts and actions of the training tasks'
  trajectories, and kept in the work directory; 'huggingface' is read from
  `tokenizer.path`, or came with the weights in `model.init_from`.
  """
  settings = session.config.tokenizer
  if settings.kind == 'huggingface':
    where = settings.path or session.config.model.init_from
    return tokenizer_lib.load(mirror.local_folder(where))
  return session.processes.leader_does(_load_or_train, session)


def _load_or_train(session: Session):
  folder = session.workdir.stage('tokenizer')
  if any(folder.iterdir()):
    return tokenizer_lib.load(folder)
  settings = session.config.tokenizer
  trained = tokenizer_lib.ToyTokenizer.train(
    texts(session), vocab_size=settings.vocab_size
  )
  trained.save(folder)
  session.log.say(f'tokenizer: {trained.vocab_size} pieces in {folder}')
  return trained


def texts(session: Session) -> list[str]:
  """Prompts, each once, and actions, as often as they were taken.

  The pieces are merges of what is frequent: an action that many trajectories
  have in common becomes a handful of tokens.
  """
  store = trajectories.TrajectoryStore(session.workdir.stage('collect'))
  rendered, actions = {}, []
  for trajectory in store:
    for state, step in trajectories.pairs_of(trajectory):
      actions.append(step.reply)
      if state.key not in rendered:
        messages = session.messages(
          state.task, state.snapshot, state.history, lambda messages: 0
        )
        rendered[state.key] = tokenizer_lib.render_plain(messages)
  return sorted({*rendered.values()}) + actions
