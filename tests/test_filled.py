"The blocks of docs/*.md hold what stands in the files that they name, so that pages are whole on GitHub too."
import shutil
import subprocess
import sys

import pytest
from helpers import root

pytest.importorskip('cogapp')


def fill(repo, *args):
    out = subprocess.run([sys.executable, repo/'docs'/'fill.py', *args], capture_output=True, text=True)
    return out.returncode, out.stdout + out.stderr


@pytest.fixture
def repo(tmp_path):
    "A copy of the pages and of what they show, to be spoiled"
    for o in ('docs', 'nbs', 'results', 'benchmarks'):
        shutil.copytree(root/o, tmp_path/o, ignore=shutil.ignore_patterns('*.png', '*.jsonl', '*.npz', '__pycache__'))
    shutil.copy(root/'README.md', tmp_path)
    return tmp_path


def test_pages_are_filled():
    code, said = fill(root, '--check')
    assert code == 0, f"{said}\nRun `python docs/fill.py`, and commit what it changes."


def test_a_stale_page_is_told_and_filled(repo):
    table, page = repo/'benchmarks'/'intervals.md', repo/'docs'/'uncertainty.md'
    table.write_text(table.read_text() + '\nMeasured again.\n')
    code, said = fill(repo, '--check')
    assert code and 'uncertainty.md  (changed)' in said and 'Measured again.' not in page.read_text()
    assert fill(repo)[0] == 0 and 'Measured again.' in page.read_text() and fill(repo, '--check')[0] == 0


@pytest.mark.parametrize('target,error', [
    ('../benchmarks/intervals.md#the-seasons', 'there is no such heading'),
    ('../results/README.md', 'it has links'),
])
def test_what_cannot_be_filled_is_an_error(repo, target, error):
    page = repo/'docs'/'uncertainty.md'
    page.write_text(page.read_text().replace('../benchmarks/intervals.md', target))
    code, said = fill(repo)
    assert code and f'include {target}: {error}' in said
