"""Images of emoji and the group they belong to, from npm."""

import io
import json
import pathlib
import tarfile

import numpy as np
import PIL.Image

from mlagent_jax.environment import fetch, task_data

SHA256 = 'f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877'
GROUPS = {
  'Activities': 'activities',
  'Animals & Nature': 'animals',
  'Flags': 'flags',
  'Food & Drink': 'food',
  'Objects': 'objects',
  'People & Body': 'people',
  'Smileys & Emotion': 'smileys',
  'Symbols': 'symbols',
  'Travel & Places': 'travel',
}


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  package = fetch.npm('emoji-datasource-twitter', '16.0.0', sha256=SHA256)
  with tarfile.open(package) as archive:
    entries = json.load(archive.extractfile('package/emoji.json'))
    group_of = {
      f'package/img/twitter/64/{entry["image"]}': GROUPS[entry['category']]
      for entry in entries
      if entry['category'] in GROUPS and entry['has_img_twitter']
    }
    images = {
      member.name: shrink(archive.extractfile(member).read())
      for member in archive
      if member.name in group_of
    }
  names = sorted(images)
  groups = [group_of[name] for name in names]
  known = sorted(GROUPS.values())
  task_data.write_task(
    public,
    private,
    inputs={'image': np.stack([images[name] for name in names])},
    targets=task_data.one_hot(groups, known),
    train_targets={'group': groups},
    rows=task_data.split_rows_evenly(groups, test=763),
    sample=task_data.uniform(known),
  )


def shrink(png: bytes) -> np.ndarray:
  """On white, the means of 2x2 pixels: [64, 64] RGBA -> [32, 32, 3]."""
  pixels = np.asarray(PIL.Image.open(io.BytesIO(png)).convert('RGBA'))
  pixels = pixels.astype(np.int64)
  colour, alpha = pixels[..., :3], pixels[..., 3:]
  flat = (colour * alpha + 255 * (255 - alpha)) // 255
  return (flat.reshape(32, 2, 32, 2, 3).sum(axis=(1, 3)) // 4).astype(np.uint8)
