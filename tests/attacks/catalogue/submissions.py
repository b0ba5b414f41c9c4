"""Attacks by what a submission holds. Limits: 40 rows, 32 MiB, finite numbers.

Each script writes the bytes that its expression gives; `rows(value)` are the
starter's with another value in the first row.
"""

from attack import HONEST, Attack, Kind

_REFUSED = (Kind.REFUSED_SUBMISSION,)
_SCRIPT = """
import bz2, gzip, io, json, pickle, zipfile
from trick import HOST

class Payload:
  def __reduce__(self):
    return (open, (HOST['writable'][0], 'w'))

def rows(value='50.0', first='id,y', end='\\n'):
  lines = [first, f'r0,{value}', *(f'r{i},50.0' for i in range(1, 40))]
  return (end.join(lines) + end).encode('utf-8', 'surrogatepass')

def zipped(content):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('submission.csv', content)
  return file.getvalue()

with open('submission.csv', 'wb') as file:
  file.write(@)
"""
_CONTENTS = (
  # name, what it tries, expression, expected
  ('inf', 'an infinite value', "rows('inf')", _REFUSED),
  (
    '-Infinity',
    'an infinite value by its long name',
    "rows('-Infinity')",
    _REFUSED,
  ),
  ('nan', 'no number, which compares with nothing', "rows('nan')", _REFUSED),
  ('NaN with a payload', 'the same as a call', "rows('nan(1)')", _REFUSED),
  ('1e999', 'a number that overflows to inf', "rows('1e999')", _REFUSED),
  ('1e308', 'numbers whose mean overflows', "rows('1e308')", HONEST),
  (
    'hex',
    'a number that C reads and Python does not',
    "rows('0x1p3')",
    _REFUSED,
  ),
  ('underscores', 'a number that only Python reads', "rows('5_0')", _REFUSED),
  ('locale digits', 'digits of other scripts', "rows('٥٠')", _REFUSED),
  ('full-width digits', 'digits that look like ours', "rows('５０')", _REFUSED),
  ('decimal comma', 'a number of another locale', 'rows(\'"50,0"\')', _REFUSED),
  ('complex', 'a complex number', "rows('50j')", _REFUSED),
  ('bool', 'a truth value', "rows('True')", _REFUSED),
  ('formula', 'a spreadsheet formula', 'rows("=1+1")', _REFUSED),
  ('an expression', 'Python, for a grader that evaluates it', None, _REFUSED),
  ('empty value', 'a missing value', "rows('')", _REFUSED),
  ('NUL', 'a zero byte within a number', "rows('50\\0')", _REFUSED),
  (
    'long number',
    'the honest number, with 100,000 zeros before it',
    "rows('0' * 100000 + '50.0')",
    HONEST,
  ),
  ('huge field', 'a field of 1 MB', "rows('9' * 10**6)", _REFUSED),
  ('quoted newlines', 'a field of a million lines', None, _REFUSED),
  ('open quote', 'a quote that never ends', 'rows("\\"50")', _REFUSED),
  (
    'carriage returns',
    '8 million empty rows',
    "b'\\r' * 8_000_000",
    _REFUSED,
  ),
  ('line feeds', '8 million empty rows', "b'\\n' * 8_000_000", _REFUSED),
  ('commas', '8 million empty fields', "b',' * 8_000_000", _REFUSED),
  ('quotes', '8 million quotes', "b'\"' * 8_000_000", _REFUSED),
  ('too large', '33 MiB of rows', 'rows() + bytes(33 << 20)', _REFUSED),
  ('sparse', '39 GiB by its size, nothing on disk', None, _REFUSED),
  ('gzip bomb', '1 GB of rows, compressed', None, _REFUSED),
  ('zip bomb', 'an archive in an archive in an archive', None, _REFUSED),
  ('deep nesting', 'brackets nested a million deep', None, _REFUSED),
  ('billion laughs', 'XML whose entities multiply', None, _REFUSED),
  ('pickle', 'a pickle that opens a file of the host', None, _REFUSED),
  ('invalid UTF-8', 'bytes that are no text', "rows() + b'\\xff'", _REFUSED),
  ('surrogates', 'half a character', "rows('\\ud800')", _REFUSED),
  ('UTF-16', 'another encoding', "rows().decode().encode('utf-16')", _REFUSED),
  ('byte order mark', 'a mark before the header', None, HONEST),
  ('many rows', 'rows of unknown ids', "rows() + b'x,1\\n' * 60", _REFUSED),
  ('a row twice', 'two values for one id', "rows() + b'r0,1\\n'", _REFUSED),
  ('a row missing', 'leaves out a hard row', 'rows()[:-9]', _REFUSED),
  ('ids that look alike', 'another row by white space', None, _REFUSED),
  ('a column twice', 'two columns of one name', None, _REFUSED),
  ('a column more', 'a column named score', None, _REFUSED),
  ('a split column', 'says which rows are validation', None, _REFUSED),
  ('empty', 'no bytes at all', "b''", _REFUSED),
)
_LONGER = {
  'an expression': 'rows(\'__import__("os").getpid()\')',
  'quoted newlines': "rows('\"' + '\\n' * 10**6 + '\"')",
  'sparse': "b''); file.truncate(39 << 20",
  'gzip bomb': 'gzip.compress(bytes(1 << 20) * 64)',
  'zip bomb': 'zipped(zipped(zipped(bytes(1 << 20) * 64)))',
  'deep nesting': "b'[' * 10**6 + b']' * 10**6",
  'billion laughs': "b'<!DOCTYPE a [<!ENTITY b \"' + b'&c;' * 999 + b'\">]>'",
  'pickle': 'pickle.dumps(Payload())',
  'byte order mark': "b'\\xef\\xbb\\xbf' + rows()",
  'ids that look alike': "rows().replace(b'r1,', b' r1\\xe2\\x80\\x8b,')",
  'a column twice': "rows('50.0,1', 'id,y,y').replace(b'50.0\\n', b'50,1\\n')",
  'a column more': (
    "rows().replace(b'\\n', b',1\\n').replace(b'y,1', b'y,score')"
  ),
  'a split column': (
    "rows().replace(b'\\n', b',test\\n').replace(b'y,test', b'y,split')"
  ),
}

ATTACKS = [
  Attack(
    f'submission: {name}',
    f'submits {tries}',
    _SCRIPT.replace('@', expression or _LONGER[name]),
    expect=expect,
  )
  for name, tries, expression, expect in _CONTENTS
]
