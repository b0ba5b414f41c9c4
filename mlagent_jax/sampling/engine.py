"""Continuous batching: requests come and go while others are decoded.

    engine = Engine(graphdef, room, stop_ids=(2,))
    engine.load(params)
    request = engine.submit(prompt_ids, Settings(temperature=0.7), seeds=[0, 1])
    while not request.done:
      engine.step()

A request is one prompt and any number of samples. The prompt is computed once
and kept in a row; each sample takes a slot as soon as one is free. `step`
fills free slots, decodes a chunk of tokens for all of them, and ends what has
ended: at a stop token, at the length limit, or where the request's own `stop`
says so. While samples wait, a chunk ends as soon as a slot is free.

Nothing here is parallel: one thread calls the engine.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx

from mlagent_jax.model.cache import Seating
from mlagent_jax.model.sharding import batch_sharding, logical_sharding
from mlagent_jax.sampling.constraint import Constraint
from mlagent_jax.sampling.programs import (
  LIKELIEST,
  Room,
  Slots,
  make_programs,
  prefill_bucket,
)
from mlagent_jax.sampling.requests import Request, Sample, Settings


@dataclasses.dataclass
class _Row:
  """A prompt on the device, and the slots (or None) on its seats."""

  seats: list[int | None]
  prompt: tuple[int, ...] | None = None
  last_used: int = 0

  @property
  def empty(self) -> bool:
    return all(slot is None for slot in self.seats)


# Engines of equal sizes share what is compiled.
_programs = functools.cache(make_programs)


class Engine:
  """The sampler of one model.

  Args:
    graphdef: of the decoder.
    room: sizes; the programs are compiled for them.
    stop_ids: tokens that end a sample, and belong to it.
    mesh: the mesh that the parameters live on.
    prompt_multiple: see `programs.prefill_bucket`.
    int8: see `programs.make_programs`.
    constraint: which tokens may be drawn; all without one.
    top_logprobs: whether requests may ask for them.

  Raises:
    ValueError: if the room cannot be split over the mesh.
  """

  def __init__(
    self,
    graphdef: nnx.GraphDef,
    room: Room,
    *,
    stop_ids: Sequence[int],
    mesh: jax.sharding.Mesh | None = None,
    prompt_multiple: int = 64,
    int8: bool = False,
    constraint: Constraint | None = None,
    top_logprobs: bool = False,
  ):
    self.room = room
    self._mesh = mesh
    self._multiple = prompt_multiple
    self._stop_ids = frozenset(stop_ids)
    self._programs = _programs(graphdef, room, tuple(stop_ids), mesh, int8)
    if constraint is not None:  # once, and whole on every device
      whole = None if mesh is None else logical_sharding(mesh, ())
      constraint = jax.device_put(constraint, whole)
    self._constraint = constraint
    self._tells = top_logprobs
    self._params = self._weights = self._cache = None
    Z = room.shards
    self._rows = [
      [_Row([None] * room.seats) for _ in range(room.rows // Z)]
      for _ in range(Z)
    ]
    B = room.slots // Z
    self._live: list[list[tuple[Request, Sample] | None]] = [
      [None] * B for _ in range(Z)
    ]
    self._queue: collections.deque[tuple[Request, Sample]] = collections.deque()
    self._clock = 0
    zeros = np.zeros((Z, B), np.int32)
    self._slots = Slots(
      tokens=zeros.copy(),
      done=np.ones((Z, B), bool),
      limits=zeros.copy(),
      seeds=np.zeros((Z, B), np.uint32),
      temperature=np.ones((Z, B), np.float32),
      top_p=np.ones((Z, B), np.float32),
      top_k=zeros.copy(),
      states=zeros.copy(),
    )
    self._seats = zeros.copy()
    self._steps = zeros.copy()

  def load(self, params) -> None:
    """Takes parameters to sample with; prompts that are kept are forgotten.

    Raises:
      RuntimeError: while samples are being decoded.
    """
    if self.busy:
      raise RuntimeError('the engine has samples of other parameters to end')
    if params is self._params:
      return
    self._params = params
    self._weights = self._programs.prepare(params)
    if self._cache is None:
      self._cache = self._programs.allocate(self._weights)
    for row in self._all_rows():
      row.prompt = None

  def unload(self) -> None:
    """Gives the memory of weights, keys and values back, until `load`."""
    self._params = self._weights = self._cache = None
    for row in self._all_rows():
      row.prompt = None

  @property
  def live(self) -> int:
    """Samples that are in a slot."""
    return sum(entry is not None for part in self._live for entry in part)

  @property
  def waiting(self) -> int:
    """Samples that wait for a slot."""
    return len(self._queue)

  @property
  def busy(self) -> bool:
    """Whether any sample has not ended."""
    return bool(self._queue) or self.live > 0

  def submit(
    self,
    prompt: Sequence[int],
    settings: Settings,
    seeds: Sequence[int],
    stop: Callable[[list[int]], int | None] | None = None,
  ) -> Request:
    """Asks for one sample of a prompt for each seed.

    Args:
      prompt: token ids, at least one.
      settings: how to draw.
      seeds: uint32; equal seeds give equal samples.
      stop: see `Request.stop`; called with all tokens of a sample after every
        chunk, so what it keeps may not depend on where chunks end: it is to
        say the first place where the sample should have ended.

    Raises:
      ValueError: if prompt or samples do not fit the engine's room.
    """
    self.check(prompt, settings)
    samples = [Sample(int(seed)) for seed in seeds]
    request = Request(tuple(map(int, prompt)), settings, samples, stop)
    self.enqueue(request)
    return request

  def check(self, prompt: Sequence[int], settings: Settings) -> None:
    """Raises ValueError if a request does not fit; any thread may ask."""
    if not 1 <= len(prompt) <= self.room.prompt_length:
      raise ValueError(
        f'prompt of {len(prompt)} tokens; the limit is'
        f' {self.room.prompt_length}'
      )
    if (settings.max_tokens or 1) > self.room.sample_length:
      raise ValueError(
        f'max_tokens is {settings.max_tokens}; the limit is'
        f' {self.room.sample_length}'
      )
    most = LIKELIEST if self._tells else 0
    if settings.top_logprobs > most:
      raise ValueError(
        f'top_logprobs is {settings.top_logprobs}; the limit is {most}'
      )

  def enqueue(self, request: Request) -> None:
    """Lets the samples of a request that fits wait for slots."""
    self._queue.extend((request, sample) for sample in request.samples)

  def warm_up(self) -> None:
    """Compiles what a short request needs, before the first one waits."""
    self.submit([0], Settings(temperature=0.0, max_tokens=1), [0])
    while self.busy:
      self.step()

  def cancel(self, request: Request) -> None:
    """Ends what has not ended of a request, and frees its slots."""
    for sample in request.samples:
      sample.ended_by = sample.ended_by or 'cancelled'
    self._queue = collections.deque(
      entry for entry in self._queue if entry[0] is not request
    )
    self._free_slots()

  def step(self) -> None:
    """Fills free slots, decodes a chunk, and ends what has ended."""
    self._fill_slots()
    if not self.live:
      return
    self._clock += 1
    waits = bool(self._queue)
    idle = self.room.slots - self.live
    arguments = self._put((self._slots, self._seating()))
    self._cache, chunk = self._programs.decode(
      self._weights,
      self._cache,
      *arguments,
      np.int32(idle + 1 if waits else self.room.slots),
      self._constraint,
      self._tell(),
    )
    tokens, logps, counts, states = map(np.asarray, chunk[:4])
    for z, b in zip(*np.nonzero(counts)):
      request, sample = self._live[z][b]
      count = int(counts[z, b])
      sample.tokens += tokens[z, b, :count].tolist()
      sample.logps += logps[z, b, :count].tolist()
      if request.settings.top_logprobs:
        sample.likeliest += _told(chunk.likeliest, z, b, count, request)
      self._slots.tokens[z, b] = tokens[z, b, count - 1]
      self._slots.states[z, b] = states[z, b]
      self._steps[z, b] += count
      self._end(request, sample)
    self._free_slots()

  def _tell(self):
    """Whether a live request wants the likeliest tokens; None if none may."""
    if not self._tells:
      return None
    live = (entry for part in self._live for entry in part if entry)
    return np.bool_(any(r.settings.top_logprobs for r, _ in live))

  def _end(self, request, sample) -> None:
    """Ends a sample where it should."""
    kept = request.stop and request.stop(sample.tokens)
    limit = request.settings.max_tokens or self.room.sample_length
    if kept is not None and kept < len(sample.tokens):
      del sample.tokens[kept:], sample.logps[kept:], sample.likeliest[kept:]
      sample.ended_by = 'stop'
    elif sample.tokens[-1] in self._stop_ids:
      sample.ended_by = 'stop_token'
    elif kept is not None:
      sample.ended_by = 'stop'
    elif len(sample.tokens) >= limit:
      sample.ended_by = 'length'

  def _all_rows(self):
    return (row for part in self._rows for row in part)

  def _free_slots(self) -> None:
    """Takes samples that have ended out of their slots and seats."""
    for z, part in enumerate(self._live):
      for b, entry in enumerate(part):
        if entry is not None and entry[1].ended_by:
          part[b] = None
          self._slots.done[z, b] = True
          self._steps[z, b] = 0
          r, w = divmod(int(self._seats[z, b]), self.room.seats)
          self._rows[z][r].seats[w] = None

  def _fill_slots(self) -> None:
    """Gives free slots to samples that wait, first come, first served."""
    waiting, self._queue = self._queue, collections.deque()
    to_prefill: list[tuple[int, int]] = []
    full = self.live == self.room.slots
    while waiting and not full:
      request, sample = waiting.popleft()
      place = self._find_place(request.prompt, to_prefill)
      if place is None:
        self._queue.append((request, sample))  # others may have a place
        continue
      self._seat(request, sample, *place)
      full = self.live == self.room.slots
    self._queue.extend(waiting)
    self._prefill(to_prefill)

  def _find_place(self, prompt, to_prefill):
    """(shard, row) with a free slot and seat for a prompt; None if none is."""
    best = None
    for z, rows in enumerate(self._rows):
      free = self._live[z].count(None)
      if not free:
        continue
      for r, row in enumerate(rows):
        if row.prompt == prompt and None in row.seats:
          rank = (2, free, 0)
        elif row.empty and (z, r) not in to_prefill:
          rank = (1, free, -row.last_used)
        else:
          continue
        if best is None or rank > best[0]:
          best = (rank, z, r)
    if best is None:
      return None
    (kind, _, _), z, r = best
    if kind == 1:
      self._rows[z][r].prompt = prompt
      to_prefill.append((z, r))
    return z, r

  def _seat(self, request, sample, z, r) -> None:
    """Puts a sample into a free slot of shard z, on a free seat of row r."""
    b = self._live[z].index(None)
    row = self._rows[z][r]
    w = row.seats.index(None)
    row.seats[w] = b
    row.last_used = self._clock
    self._live[z][b] = (request, sample)
    self._seats[z, b] = r * self.room.seats + w
    self._steps[z, b] = 0
    settings = request.settings
    values = Slots(
      tokens=request.prompt[-1],
      done=False,
      limits=settings.max_tokens or self.room.sample_length,
      seeds=sample.seed,
      temperature=settings.temperature,
      top_p=settings.top_p,
      top_k=settings.top_k,
      states=0,
    )
    for array, value in zip(self._slots, values):
      array[z, b] = value

  def _prefill(self, places) -> None:
    """Computes the prompts of new rows: one of every shard at a time.

    All but a prompt's last token, which its samples begin by decoding. A
    prompt is computed in a program of its own length alone: its neighbours
    do not touch its bits.
    """
    pending = collections.defaultdict(collections.deque)
    for z, r in places:
      length = len(self._rows[z][r].prompt) - 1
      pending[prefill_bucket(length, self._multiple), z].append(r)
    while pending:
      bucket = min(bucket for bucket, _ in pending)
      tokens = np.zeros((self.room.shards, bucket), np.int32)
      lengths = np.zeros(self.room.shards, np.int32)
      rows = np.full(self.room.shards, len(self._rows[0]), np.int32)
      for z in range(self.room.shards):
        if (bucket, z) in pending:
          rows[z] = r = pending[bucket, z].popleft()
          prompt = self._rows[z][r].prompt[:-1]
          tokens[z, : len(prompt)] = prompt
          lengths[z] = len(prompt)
          if not pending[bucket, z]:
            del pending[bucket, z]
      arguments = self._put((tokens, lengths, rows))
      self._cache = self._programs.prefill(
        self._params, self._cache, *arguments
      )

  def _seating(self) -> Seating:
    shape = (self.room.shards, len(self._rows[0]), self.room.seats)
    lengths = np.zeros(shape[:2], np.int32)
    slots = np.zeros(shape, np.int32)
    for z, r in np.ndindex(shape[:2]):
      row = self._rows[z][r]
      if not row.empty:
        lengths[z, r] = len(row.prompt) - 1
        slots[z, r] = [0 if slot is None else slot for slot in row.seats]
    return Seating(lengths, slots, self._seats, self._steps)

  def _put(self, tree):
    """Host arrays [Z, …] to the devices; all processes pass the same."""
    if self._mesh is None:
      return tree
    sharding = batch_sharding(self._mesh)
    return jax.tree.map(lambda x: jax.device_put(x, sharding), tree)


def _told(likeliest, z: int, b: int, count: int, request):
  """The likeliest tokens of a slot's chunk, as `Sample.likeliest`."""
  K = request.settings.top_logprobs
  tokens, logps = (np.asarray(x)[z, b, :count, :K].tolist() for x in likeliest)
  return [tuple(zip(*pair)) for pair in zip(tokens, logps)]
