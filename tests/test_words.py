"""The field's terms in documents: words of our own stay out of pages, docstrings, comments on arguments and errors.

`python tests/test_words.py` prints where each is.
"""
import ast
import json
import re
from collections import Counter
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent  # not from helpers, so that it runs as a script without pytest's path

# Our word, as it is matched: and the field's
WORDS = {
    r'tables?': 'dataset',
    r'arms?|rivals?|opponents?': 'method, baseline',
    r'vot(?:es?|ed|ing)': 'average',
    r'answer(?:s|ed|ing)?': 'prediction',
    r'gaps?': 'missing values',
    r'slices?': 'training rows, validation rows',
    r'nets?(?!=)': 'model, network',
    r'embeddings? (?:of|for) (?:numbers?|continuous columns?)': 'numerical embeddings',
    r'embeddings? (?:of|for) (?:categor\w+)': 'categorical embeddings',
    r'(?:larger|small) embeddings?': 'larger initial embeddings',
    r'for (?:numbers|classes)|(?:numbers|classes) or (?:numbers|classes)': 'regression, classification',
    r'rows to (?:learn from|train on)': 'training rows',
    r'(?:sparse|dense|masked|trainable|few-input|such a|same|best|other) starts?': 'initialization',
    r'(?:is|are|was|were|be|and|makes? \w+|mostly) level|level (?:with|on|for|there|elsewhere)': 'no significant difference',
    r'clearly(?: so)?|nothing clear|no clear difference': 'significant',
    r'1/[\d.]+ (?:to 1/[\d.]+ )?of': 'times faster',
}
# Where such a word is the field's own
ALLOWED = [r'(?:results|lookup|Markdown|database) tables?', r'tables? of (?:arguments|errors|results)', r'\[table\]',
           r'tables? and plots?', r'neural nets?', r'-slice']


def prose(text):
    "Markdown without code, addresses of links, HTML comments, and data in tables of results"
    text = re.sub(r'^(`{3,}).*?^\1', '', text, flags=re.M | re.S)
    text = re.sub(r'<!--.*?-->', '', text, flags=re.S)
    text = re.sub(r'(`+)[^`].*?\1', '', text)
    return re.sub(r'\]\([^)\s]+\)', ']', text)


def strings(node):
    found = (o.value for o in ast.walk(node) if isinstance(o, ast.Constant) and isinstance(o.value, str))
    return ' '.join(o for o in found if ' ' in o)  # one word may be a key


def spoken(source):
    "Docstrings, comments, and messages of errors and warnings in Python"
    source = re.sub(r'^(\s*)[%!].*$', r'\1pass', source, flags=re.M)  # commands of a notebook
    tree, res = ast.parse(source), re.findall(r'(?:^|\s)#(?!\|)\s?(.*)$', source, re.M)
    for o in ast.walk(tree):
        if isinstance(o, (ast.Module, ast.FunctionDef, ast.ClassDef)): res.append(ast.get_docstring(o) or '')
        if isinstance(o, ast.Raise): res.append(strings(o))
        if isinstance(o, ast.Call) and getattr(o.func, 'attr', '') in ('warn', 'add_argument'): res.append(strings(o))
    return prose('\n\n'.join(res))


def documents():
    pages = [*(root/'docs').glob('*.md'), *(root/o for o in ('README.md', 'CHANGELOG.md', 'CONTRIBUTING.md'))]
    measured = [*(root/'results').rglob('*.md'), *(root/'benchmarks').glob('*.md')]
    return sorted([*pages, *measured, *(root/'nbs').rglob('*.ipynb'), root/'dropconnect_tab'/'all.py'])


def read(path):
    "What a reader of a document reads"
    text = path.read_text(encoding='utf-8')
    if path.suffix != '.ipynb': return prose(text) if path.suffix == '.md' else spoken(text)
    cells = [(c['cell_type'], ''.join(c['source'])) for c in json.loads(text)['cells']]
    return '\n\n'.join(prose(o) if kind == 'markdown' else spoken(o) for kind, o in cells)


def find(text, word):
    "Each place of `word` in `text` that is not allowed, with what surrounds it"
    spared = [m.span() for o in ALLOWED for m in re.finditer(o, text, re.I)]
    found = [m.span() for m in re.finditer(rf'\b(?:{word})\b', text, re.I)]
    return [text[max(i-50, 0):j+40].replace('\n', ' ') for i, j in found if not any(a <= i and j <= b for a, b in spared)]


def name(path): return str(path.relative_to(root))


@pytest.mark.parametrize('path', documents(), ids=name)
def test_documents_use_the_terms_of_the_field(path):
    text = read(path)
    found = {f'{w}: write {better}': places for w, better in WORDS.items() if (places := find(text, w))}
    assert not found, '\n'.join(f'{k}\n  ' + '\n  '.join(v) for k, v in found.items())


def test_words_are_found_where_they_are_prose():
    text = 'The table of a net.\n```python\ntable = net\n```\n`table`, [a table](table.md), a results table <!-- nets -->'
    assert len(find(prose(text), r'tables?')) == 2 and len(find(prose(text), r'nets?')) == 1
    code = 'def f(a): # a net\n    "A table"\n    table = "slice"\n    raise ValueError(f"no arm {a}")'
    assert [len(find(spoken(code), o)) for o in (r'nets?', r'tables?', r'slices?', r'arms?')] == [1, 1, 0, 1]


if __name__ == '__main__':
    found = [(path, word, place) for path in documents() for word in WORDS for place in find(read(path), word)]
    for path, word, place in found: print(f'{name(path)}: {word}: {place}')
    print(len(found), Counter(word for _, word, _ in found))
