import os
import pathlib
import socket
import subprocess

import pytest

from mlagent_jax.environment import blobs, workspace
from mlagent_jax.environment.scratch import make_folder


def listing(folder):
  """What GNU find says: path, type, mode, target; and content by cksum."""
  names = subprocess.run(
    ['find', '.', '-mindepth', '1', '-printf', '%p %y %m %l\n'],
    cwd=folder,
    capture_output=True,
    check=True,
  ).stdout
  sums = subprocess.run(
    ['find', '.', '-type', 'f', '-exec', 'cksum', '{}', ';'],
    cwd=folder,
    capture_output=True,
    check=True,
  ).stdout
  return sorted(names.split(b'\n')), sorted(sums.split(b'\n'))


@pytest.fixture
def folder(tmp_path):
  """A workspace with everything that must come back."""
  folder = tmp_path / 'workspace'
  (folder / 'lib' / 'inner').mkdir(parents=True)
  (folder / 'empty').mkdir(mode=0o711)
  (folder / 'lib' / 'a.py').write_text('x = 1\r\n')
  (folder / 'lib' / 'inner' / 'bytes').write_bytes(bytes(range(256)))
  (folder / 'none').write_bytes(b'')
  (folder / 'large').write_bytes(os.urandom(3 * 2**20))
  (folder / 'run').write_text('#!')
  (folder / 'run').chmod(0o755)
  (folder / 'secret').write_text('x')
  (folder / 'secret').chmod(0o400)
  (folder / 'line\nbreak').write_text('x')
  (folder / 'link').symlink_to('lib/a.py')
  (folder / 'away').symlink_to('/etc/passwd')
  (folder / 'dangling').symlink_to('../nowhere')
  (folder / 'linked').symlink_to('lib')
  pathlib.Path(os.fsdecode(bytes(folder) + b'/\xff\xfe')).write_text('x')
  (folder / 'lib').chmod(0o555)
  yield folder
  (folder / 'lib').chmod(0o755)


def test_a_snapshot_is_restored_exactly(folder, store, tmp_path):
  tree = workspace.snapshot_tree(folder, store)
  copy = tmp_path / 'copy'
  workspace.restore_tree(tree, store, copy)
  assert listing(copy) == listing(folder)
  assert workspace.snapshot_tree(copy, store) == tree


def test_links_are_kept_and_never_followed(folder, store):
  entries = workspace.read_tree(workspace.snapshot_tree(folder, store), store)
  assert entries['away'] == workspace.Entry('link', 0, '/etc/passwd')
  assert not [path for path in entries if path.startswith('linked/')]
  assert b'root:' not in b''.join(
    store.get(e.content) for e in entries.values() if e.kind == 'file'
  )


def test_special_files_are_left_out_with_a_note(tmp_path, store):
  folder = tmp_path / 'w'
  folder.mkdir()
  os.mkfifo(folder / 'pipe')
  with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(str(folder / 's'))
  notes = []
  tree = workspace.snapshot_tree(folder, store, notes=notes)
  assert workspace.read_tree(tree, store) == {}
  assert len(notes) == 2
  assert "'pipe' is not a regular file" in notes[0]


def test_setuid_bits_are_not_restored(tmp_path, store):
  folder = tmp_path / 'w'
  folder.mkdir()
  (folder / 'su').write_text('x')
  (folder / 'su').chmod(0o6755)
  entries = workspace.read_tree(workspace.snapshot_tree(folder, store), store)
  assert entries['su'].mode == 0o755


def test_data_is_not_part_of_it(tmp_path, store):
  folder = tmp_path / 'w'
  (folder / 'data').mkdir(parents=True)
  (folder / 'data' / 'x').write_text('x')
  (folder / 'lib' / 'data').mkdir(parents=True)
  entries = workspace.read_tree(workspace.snapshot_tree(folder, store), store)
  assert list(entries) == ['lib', 'lib/data']


def test_too_much_is_refused(tmp_path, store):
  many, large = tmp_path / 'many', tmp_path / 'large'
  for folder in (many, large):
    folder.mkdir()
  for number in range(workspace.MAX_ENTRIES + 1):
    (many / str(number)).touch()
  with (large / 'sparse').open('wb') as file:
    file.truncate(2 * workspace.MAX_BYTES)
  for folder in (many, large):
    with pytest.raises(workspace.WorkspaceError, match='more than 5000 files'):
      workspace.snapshot_tree(folder, store)


def nest(folder, depth):
  """Folders nested deeper than any path may be long."""
  here = os.open(folder, os.O_RDONLY)
  for _ in range(depth):
    os.mkdir('deep' * 10, dir_fd=here)
    inner = os.open('deep' * 10, os.O_RDONLY, dir_fd=here)
    os.close(here)
    here = inner
  os.close(os.open('file', os.O_CREAT | os.O_WRONLY, dir_fd=here))
  os.close(here)


def test_deep_folders_are_refused_and_removed(tmp_path, store):
  with make_folder('run', tmp_path) as folder:
    nest(folder, 1100)  # deeper than Python may recurse
    with pytest.raises(workspace.WorkspaceError, match='nested deeper'):
      workspace.snapshot_tree(folder, store)
  assert list(tmp_path.iterdir()) == [store.folder]


def test_restoring_wants_an_empty_folder(folder, store):
  tree = workspace.snapshot_tree(folder, store)
  with pytest.raises(FileExistsError):
    workspace.restore_tree(tree, store, folder)


def test_a_damaged_blob_is_not_restored(folder, store, tmp_path):
  tree = workspace.snapshot_tree(folder, store)
  blob = store.path(workspace.read_tree(tree, store)['lib/a.py'].content)
  blob.chmod(0o644)
  blob.write_text('x = 2\r\n')
  with pytest.raises(blobs.BlobError, match='damaged'):
    workspace.restore_tree(tree, store, tmp_path / 'copy')


@pytest.mark.parametrize(
  'path', ['..', '../x', 'a/../../x', '/etc/passwd', '//etc', '/']
)
def test_paths_that_lead_outside(path, tmp_path):
  with pytest.raises(workspace.PathError):
    workspace.normalise(path)
  with pytest.raises(workspace.PathError):
    workspace.resolve_inside(tmp_path, path)


def test_paths_are_resolved_not_compared_as_strings(tmp_path):
  inside, beside = tmp_path / 'work', tmp_path / 'work-private'
  inside.mkdir()
  beside.mkdir()
  (beside / 'labels.csv').write_text('x')
  (inside / 'link').symlink_to(beside)
  with pytest.raises(workspace.PathError, match='outside'):
    workspace.resolve_inside(inside, 'link/labels.csv')
  found = workspace.resolve_inside(inside, './a/../b')
  assert found == (inside / 'b').resolve()


def test_with_file(store):
  tree = {'run': workspace.Entry('file', 0o755, store.put(b'a'))}
  tree['l'] = workspace.Entry('link', 0, 'run')
  changed = workspace.with_file(tree, 'run', b'b', store)
  assert changed['run'].mode == 0o755
  assert store.get(changed['run'].content) == b'b'
  assert store.get(tree['run'].content) == b'a'
  added = workspace.with_file(tree, 'x/y/z', b'b', store)
  assert [added[p].kind for p in ('x', 'x/y', 'x/y/z')] == [
    'folder', 'folder', 'file'
  ]  # fmt: skip
  for path in ('l', 'l/x', 'run/x'):
    with pytest.raises(workspace.PathError):
      workspace.with_file(tree, path, b'b', store)
