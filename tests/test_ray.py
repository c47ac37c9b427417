"Searches and folds on Ray's workers: what one process finds."
import os

import numpy as np
import pytest
from helpers import make_df
from joblib import Parallel, delayed, parallel_config
from sklearn.model_selection import GridSearchCV, cross_val_predict

from dropconnect_tab.sklearn import DropConnectRegressor

ray = pytest.importorskip('ray')

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('serial')]


@pytest.fixture(scope='module', autouse=True)
def workers():
    "Two, which are not this process"
    from ray.util.joblib import register_ray
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80*2**20)
    register_ray()
    with parallel_config('ray', n_jobs=-1): here = Parallel()(delayed(os.getpid)() for _ in range(2))
    assert os.getpid() not in here
    yield
    ray.shutdown()


def rows():
    df = make_df(300)
    return df[['shop', 'size', 'age']], df['price']


def make(): return DropConnectRegressor(n_epoch=2, layers=[20], members=2, random_state=0)


def test_a_search_finds_what_one_process_finds():
    X, y = rows()
    def search():
        return GridSearchCV(make(), dict(weight_p=[.2, .8], lr=[.01, .03]), cv=2).fit(X, y)
    alone = search()
    with parallel_config('ray', n_jobs=-1): together = search()
    for i in range(2):
        found = [o.cv_results_[f'split{i}_test_score'] for o in (alone, together)]
        np.testing.assert_allclose(*found, rtol=1e-5)
        assert len({*found[0].round(6)}) == 4
    assert together.best_params_ == alone.best_params_


def test_folds_are_those_of_one_process():
    X, y = rows()
    alone = cross_val_predict(make(), X, y, cv=4)
    with parallel_config('ray', n_jobs=-1): together = cross_val_predict(make(), X, y, cv=4)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
