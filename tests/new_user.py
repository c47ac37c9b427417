"What the README promises a new user: from a CSV of one's own to a trained model. Run as a script, it needs no pytest."
import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

readme = Path(__file__).resolve().parent.parent/'README.md'


def blocks(lang, page=readme):
    "Examples of a page"
    return re.findall(rf'^```{lang}\n(.*?)^```', page.read_text(encoding='utf-8'), re.M | re.S)


def write_houses(folder, n=400):
    "A CSV such as people have: strings, dates, gaps, numbers with few values"
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'town': rng.choice(['Ayr', 'Bath', None], n), 'rooms': rng.integers(1, 7, n),
                       'area': rng.normal(90, 30, n).round(1),
                       'sold': pd.Timestamp('2023-01-01') + pd.to_timedelta(rng.integers(0, 700, n), 'D')})
    df['price'] = (2000*df.area + 30_000*df.rooms + 100_000*(df.town == 'Bath') + rng.normal(0, 9000, n)).round()
    df.loc[rng.random(n) < .1, 'area'] = None
    df.to_csv(folder/'houses.csv', index=False)


def train():
    "The README's lines, in a folder with houses.csv; their names"
    first = blocks('python')[0]
    assert 'read_csv' in first and len([o for o in first.splitlines() if o.strip()]) <= 10, first
    names = {}
    exec(first, names)
    assert names['model'].score(names['X_test'], names['y_test']) > .6 and names['prices'].shape == (100,)
    return names


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        write_houses(Path(folder))
        os.chdir(folder)
        train()
        os.chdir(Path(sys.executable).anchor)  # a folder that is in use cannot be removed everywhere
