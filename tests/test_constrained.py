"""Constrained action names: against the parser, and exact distributions."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import transformers
from flax import nnx
from test_sampling import chi_square, nucleus, run

from configs import base
from mlagent_jax import batching, sampling
from mlagent_jax.agent import action_names
from mlagent_jax.agent import tokenizer as tokenizer_lib
from mlagent_jax.environment import actions
from mlagent_jax.environment.records import ActionName, OutcomeKind
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import make_model
from mlagent_jax.model.logps import make_compute_logps
from mlagent_jax.model.sharding import make_mesh
from mlagent_jax.stages import learner, session

NAMES = (
  'List Files',
  'Edit Script',
  'Edit Script Lines',
  'Edit Script (AI)',
  'Final Answer',
)
TEXTS = [
  f'Thought: grow {i} trees.\nAction: {name}\nAction Input: train.py {i}-{i}'
  for i in range(1, 20)
  for name in NAMES
]
MARKED = 'Thought: grow\nAction:'
TEMPERATURE = 0.8
A = 72


@functools.cache
def tokenizer(kind):
  if kind == 'sentencepiece':
    return tokenizer_lib.ToyTokenizer.train(TEXTS, vocab_size=500)
  inner = tokenizers.Tokenizer(tokenizers.models.BPE())
  level = tokenizers.pre_tokenizers.ByteLevel
  inner.pre_tokenizer = level(add_prefix_space=False)
  inner.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=420,
    special_tokens=['<|end|>'],
    initial_alphabet=level.alphabet(),
    show_progress=False,
  )
  inner.train_from_iterator(TEXTS, trainer)
  return tokenizer_lib.ChatTokenizer(
    transformers.PreTrainedTokenizerFast(
      tokenizer_object=inner, eos_token='<|end|>'
    )
  )


KINDS = ('sentencepiece', 'bpe')


@functools.cache
def automaton(kind):
  reader = tokenizer(kind)
  return action_names.token_automaton(reader, NAMES, reader.vocab_size + 3)


def viable(text):
  """Whether a reply can go on from here to name an action, by its text."""
  header = re.search(r'^[ \t]*Action[ \t]*:', text, re.MULTILINE)
  if header is None:
    return True
  rest = text[header.end() :]
  return any(
    whole.startswith(rest) or rest.startswith(whole)
    for name in NAMES
    for blank in ('', ' ')
    for whole in [f'{blank}{name}\nAction Input:']
  )


def within(text):
  """Whether the reply is between "Action:" and "Action Input:"."""
  return viable(text) and not viable(text + '\0')


@pytest.mark.parametrize('kind', KINDS)
def test_the_automaton_allows_what_the_text_allows(kind):
  reader, (classes, table) = tokenizer(kind), automaton(kind)
  texts = action_names.token_texts(reader)
  assert ''.join(texts[i] for i in reader.encode_text(MARKED)) == MARKED
  assert classes.shape == (reader.vocab_size + 3,)
  assert table.shape[1] < 250  # tokens that do the same are one class
  rng = np.random.default_rng(0)
  straddling = named = 0
  for start in (
    '',
    'Action',
    ' \tAction ',
    MARKED,
    f'{MARKED} Edit',
    'an Acti',
  ):
    for _ in range(2):
      text, state = start, 0
      for token in reader.encode_text(start):
        state = table[state, classes[token]]
      for _ in range(30):
        allowed = table[state, classes] >= 0
        for token, added in enumerate(texts):
          expected = viable(text + added) and bool(added or not within(text))
          assert allowed[token] == expected, (text, added)
        assert not allowed[-3:].any() or not within(text)
        straddling += sum(
          within(text + added) and not within(text)
          for token, added in enumerate(texts)
          if allowed[token] and re.search('Action[ \t]*:.*[a-z]', added)
        )
        token = rng.choice(np.flatnonzero(allowed[: reader.vocab_size]))
        before, text = text, text + texts[token]
        named += within(before) and not within(text)
        state = table[state, classes[token]]
  assert named >= 4
  # Some pieces of the toy hold the marker and a name's beginning.
  assert straddling or kind == 'bpe'


def test_what_no_tokens_spell_is_told():
  class Poor:
    vocab_size, stop_ids = 4, (0,)

    def encode_text(self, text):
      return [1]

    def decode(self, ids):
      return ''.join(
        ['', 'x', 'Edit Script\nAction In', 'put:'][i] for i in ids
      )

  made = action_names.token_automaton(Poor(), ['Edit Script'], 4)
  assert made.classes.shape == (4,)
  config = base.get_config()
  config.sampler.constrain_actions = True
  config.model.vocab_size = 4
  config.agent.actions = ('Edit Script', 'Final Answer')
  made = learner.make_learner(config, Poor())
  with pytest.raises(session.ConfigError, match=r"spell .*\['Final Answer'\]"):
    made.policy(samples_per_prompt=1, batch_size=1, temperature=1.0)


@functools.cache
def bigram_model(kind, mesh=None):
  """A decoder whose next token depends on the last one alone, and logits.

  Its blocks add nothing and its embedding is the identity. From the first
  token on it goes through MARKED, and then wherever chance leads.
  """
  reader = tokenizer(kind)
  V = -(-reader.vocab_size // 8) * 8
  config = ModelConfig(1, V, 4, 4, 4, 8, V, tied_embeddings=False)
  graphdef, params = make_model(config, 0, mesh)
  logits = np.random.default_rng(1).normal(scale=1.5, size=(V, V))
  logits[:, reader.vocab_size :] -= 30  # no token's ids
  path = reader.encode_text('x' + MARKED)
  for token, following in zip(path, path[1:]):
    logits[token, following] += 12
  model = nnx.merge(graphdef, jax.tree.map(lambda x: 0 * x, params))
  model.final_norm.scale[...] += 1
  model.embedding[...] += jnp.sqrt(V) * jnp.eye(V)  # as the norm leaves it
  model.output[...] += jnp.asarray(logits / np.sqrt(V), jnp.float32)
  return *nnx.split(model), logits, path


@functools.cache
def engine(kind, constrained=True, mesh=None, length=A, slots=32):
  graphdef, params, *_ = bigram_model(kind, mesh)
  made = sampling.Engine(
    graphdef,
    sampling.Room(
      slots=slots,
      rows=2 if mesh is None else 4,
      seats=slots,
      prompt_length=8,
      sample_length=length,
      chunk=7,
      shards=1 if mesh is None else 4,
    ),
    stop_ids=tokenizer(kind).stop_ids,
    mesh=mesh,
    prompt_multiple=8,
    constraint=constraint(kind) if constrained else None,
  )
  made.load(params)
  return made


def constraint(kind):
  V = bigram_model(kind)[2].shape[0]
  return learner.constraint(tokenizer(kind), frozenset(NAMES), V)


def draw(here, kind, seeds, **settings):
  settings = sampling.Settings(**{'temperature': TEMPERATURE} | settings)
  first = bigram_model(kind)[3][:1]
  request = here.submit([*first * 2], settings, seeds)
  run(here)
  return request.samples


def unknown(text):
  """Whether a reply names no action; one that was cut off does not count."""
  try:
    actions.parse_reply(text + '{}', allowed=[ActionName(n) for n in NAMES])
  except actions.ActionError as error:
    return error.kind is OutcomeKind.UNKNOWN_ACTION
  return False


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('drawn', [{}, {'top_p': 0.7}, {'temperature': 0.0}])
def test_every_name_is_valid(kind, drawn):
  reader, seeds = tokenizer(kind), range(64)
  names = {}
  for on in (True, False):
    samples = draw(engine(kind, on), kind, seeds, **drawn)
    texts = [reader.decode(sample.tokens) for sample in samples]
    assert sum(MARKED in text for text in texts) > 0.9 * len(texts)
    names[on] = [
      match[1].strip()
      for text in texts
      if (match := re.search(r'^Action:(.*?)\nAction Input:', text, 16 | 8))
    ]
    if on:
      assert all(map(viable, texts)) and not any(map(unknown, texts))
    else:
      assert not all(map(viable, texts))
  assert len(names[True]) > 0.9 * len(seeds)
  assert set(names[True]) <= set(NAMES)
  assert drawn.get('temperature') == 0 or len(set(names[True])) > 2
  assert not set(names[False]) & set(NAMES)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('top_k, top_p', [(0, 1.0), (4, 1.0), (0, 0.6)])
def test_the_distribution_is_the_renormalised_one(kind, top_k, top_p):
  _, _, logits, path = bigram_model(kind)
  many, at = 2000, len(path) - 1
  here = engine(kind, length=at + 1, slots=many)
  samples = draw(here, kind, range(many), top_k=top_k, top_p=top_p)
  texts = action_names.token_texts(tokenizer(kind))
  allowed = np.zeros(len(logits), bool)
  allowed[: len(texts)] = [
    bool(added) and viable(MARKED + added) for added in texts
  ]
  assert 3 < allowed.sum() < 40
  scaled = logits[path[-1]] / TEMPERATURE
  probs = np.exp(scaled) / np.exp(scaled).sum()
  expected = nucleus(np.where(allowed, probs, 0), top_k, top_p)
  assert (expected > 0).sum() >= 2
  marked = [s for s in samples if s.tokens[:at] == path[1:]]
  assert len(marked) > 0.9 * many
  drawn = np.array([sample.tokens[at] for sample in marked])
  assert chi_square(drawn, expected) > 0.001
  # What is stored is the policy's own, of all tokens.
  np.testing.assert_allclose(
    [sample.logps[at] for sample in marked],
    np.log(probs)[drawn],
    rtol=1e-4,
    atol=1e-4,
  )


def test_stored_log_probabilities_are_the_trainers():
  """So that the truncated importance weight is 1 on-policy."""
  kind = 'sentencepiece'
  graphdef, params, _, path = bigram_model(kind)
  samples = draw(engine(kind), kind, range(8))
  taken = [sample.tokens for sample in samples]
  batch = batching.group_layout(
    [path[:1] * 2], [taken], prompt_length=8, action_length=A
  )
  logps = make_compute_logps(graphdef, temperature=TEMPERATURE)(params, batch)
  for sample, row in zip(samples, np.asarray(logps)[0]):
    np.testing.assert_allclose(
      sample.logps, row[: len(sample.logps)], atol=1e-4
    )


def test_a_sample_does_not_depend_on_its_batch():
  kind = 'bpe'
  here = engine(kind, slots=6)
  alone = [draw(here, kind, [seed])[0] for seed in range(4)]
  assert draw(here, kind, range(20))[:4] == alone
  mesh = make_mesh(2, 2, 2, devices=jax.devices()[:8])
  split = draw(engine(kind, mesh=mesh, slots=8), kind, range(4))
  assert [s.tokens for s in split] == [s.tokens for s in alone]


def test_the_config_turns_it_on():
  kind = 'sentencepiece'
  config = base.get_config()
  config.sampler.constrain_actions = True
  config.agent.actions = NAMES
  config.agent.max_action_tokens = A
  made = learner.make_learner(config, tokenizer(kind))
  graphdef, params, _, path = bigram_model(kind)
  model = nnx.merge(graphdef, params).config
  made = dataclasses.replace(made, graphdef=graphdef, model=model)
  policy = made.policy(
    samples_per_prompt=16, batch_size=1, temperature=TEMPERATURE
  )
  seeds = np.arange(16, dtype=np.uint32)[None]
  (replies,) = policy.sample_replies(params, [path[:1]], seeds)
  texts = [reply.text for reply in replies]
  assert sum(MARKED in text for text in texts) > 14
  assert all(map(viable, texts))
