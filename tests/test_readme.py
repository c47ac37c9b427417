"The README's examples run, in one go, as a reader would type them."
import re

import pytest
from helpers import root
from new_user import blocks, train, train_on_houses

from dropconnect_tab.masks import find_linears

pytestmark = pytest.mark.slow

text = (root/'README.md').read_text(encoding='utf-8')


def test_the_first_lines_print_what_is_shown():
    printed, shown, _ = train()
    assert printed.split()[0] == shown.split()[0] and float(printed.split()[1]) == pytest.approx(float(shown.split()[1]), abs=.1)


def test_strings_dates_and_missing_values_are_fine(tmp_path):
    assert train_on_houses(tmp_path).columns_.kinds == dict(town='category', rooms='category', area='number', sold='date')


def test_examples():
    snippets, learners, ns = blocks('python'), [], {}
    assert len(snippets) == 5
    for s in snippets:
        exec(s, ns)
        if 'learn' in ns: learners.append(ns['learn'])
    zeros = [[int((l.weight == 0).sum()) for l in find_linears(learn.model).values()] for learn in learners]
    n_in = learners[1].model.layers[0][0].in_features
    total = sum(l.weight.numel() for l in find_linears(learners[0].model).values())
    assert sum(zeros[0]) < .02*total  # trainable: what is left belongs to neurons that no row has reached
    assert zeros[1] == [round(.8*200*n_in), 10_000, 0]
    assert zeros[2] == [100*n_in, 0, 0]
    assert [getattr(learn.model, 'members', 1) for learn in learners] == [8, 1, 1]


def test_the_two_commands_come_first():
    first, second = [b.strip() for b in blocks('bash')[:2]]
    assert first == 'pip install -e . && dropconnect-bulldozers'
    assert second == "pip install -e '.[dev,bench]' && nbdev-test && pytest"
    ci = (root/'.ci'/'run').read_text()
    assert "grep -m1 -F 'nbdev-test' README.md" in ci
    assert next(l for l in text.splitlines() if 'nbdev-test' in l) == second


@pytest.mark.parametrize('link', re.findall(r'\]\((?!https?:|#)([^)]+)\)', text))
def test_links_lead_somewhere(link):
    path, _, anchor = link.partition('#')
    assert (root/path).exists()
    if anchor:
        headings = re.findall(r'^#+ (.+)$', (root/path).read_text(encoding='utf-8'), re.M)
        assert anchor in {re.sub(r'[^\w\- ]', '', o.lower()).replace(' ', '-') for o in headings}


def test_it_is_one_page(): assert len(text.encode()) < 8000
