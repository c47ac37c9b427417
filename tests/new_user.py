"What the README promises a new user: its first lines, and a model of one's own CSV. Run as a script, it needs no pytest."
import io
import re
import tempfile
from contextlib import redirect_stdout
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
    "The README's first lines as they stand; what they print and say, and the names that they leave"
    first, names, said = blocks('python')[0], {}, io.StringIO()
    assert len([o for o in first.splitlines() if o.strip()]) <= 10, first
    with redirect_stdout(said): exec(first, names)
    return said.getvalue(), blocks('text')[0], names


def train_on_houses(folder):
    "The same model from a CSV with strings, dates and missing values"
    from sklearn.model_selection import train_test_split

    from dropconnect_tab.sklearn import DropConnectRegressor
    write_houses(folder)
    df = pd.read_csv(folder/'houses.csv')
    X, X_test, y, y_test = train_test_split(df.drop(columns='price'), df['price'], random_state=0)
    model = DropConnectRegressor(random_state=0).fit(X, y)
    assert model.score(X_test, y_test) > .6
    return model


if __name__ == '__main__':
    printed, shown, _ = train()
    print(printed, end='')
    assert abs(float(printed.split()[1]) - float(shown.split()[1])) < .1, (printed, shown)
    with tempfile.TemporaryDirectory() as folder: train_on_houses(Path(folder))
