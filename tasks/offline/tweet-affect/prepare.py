"""Tweets rated by people (Hutto and Gilbert 2014), from vaderSentiment."""

import io
import pathlib
import tarfile
import zipfile

from mlagent_jax.environment import fetch, task_data

SHA256 = '5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a'
INNER = 'vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz'
FOLDER = 'hutto_ICWSM_2014'


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  # The wheels of this package leave the ratings out.
  source = fetch.pypi('vaderSentiment', '0.5', sha256=SHA256, sdist=True)
  with zipfile.ZipFile(source) as archive:
    packed = io.BytesIO(archive.read(INNER))
  with tarfile.open(fileobj=packed) as archive:
    truth = read(archive, 'tweets_GroundTruth.txt')
    ratings = read(archive, 'tweets_anonDataRatings.txt')
  text = {number: text for number, _, text in truth}
  numbers, means, deviations, _ = zip(*ratings)
  task_data.write_task(
    public,
    private,
    inputs={'text': [text[number] for number in numbers]},
    targets={
      'mean': [float(mean) for mean in means],
      'deviation': [float(deviation) for deviation in deviations],
    },
    rows=task_data.split_rows(len(numbers), test=1400),
    sample={'mean': 0.5, 'deviation': 1.2},
  )


def read(archive: tarfile.TarFile, name: str) -> list[list[str]]:
  lines = archive.extractfile(f'{FOLDER}/{name}').read().decode('utf-8')
  return [line.split('\t') for line in lines.strip().split('\r\n')]
