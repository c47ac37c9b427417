"Searches and folds on dask's workers, each a process with one thread: what one process finds."
import numpy as np
import pytest
from helpers import make_df
from joblib import parallel_config
from sklearn.model_selection import GridSearchCV, cross_val_predict

from dropconnect_tab.sklearn import DropConnectClassifier, DropConnectRegressor

distributed = pytest.importorskip('distributed')

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('serial')]


@pytest.fixture(scope='module')
def cluster():
    "Two workers, which import PyTorch and fastai once"
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client: yield client


def rows():
    df = make_df(300)
    return df[['shop', 'size', 'age']], df['price'], df['band']


def make(cls, **kwargs): return cls(n_epoch=2, layers=[20], members=2, random_state=0, **kwargs)


def test_a_search_finds_what_one_process_finds(cluster):
    X, y, _ = rows()
    def search():
        settings = dict(weight_p=[.2, .8], lr=[.01, .03])
        return GridSearchCV(make(DropConnectRegressor), settings, cv=2).fit(X, y)
    alone = search()
    with distributed.get_task_stream(cluster) as tasks, parallel_config('dask'): together = search()
    assert len({o['worker'] for o in tasks.data}) == 2
    for i in range(2):
        found = [o.cv_results_[f'split{i}_test_score'] for o in (alone, together)]
        np.testing.assert_allclose(*found, rtol=1e-5)
        assert len({*found[0].round(6)}) == 4
    assert together.best_params_ == alone.best_params_
    np.testing.assert_allclose(together.predict(X), alone.predict(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('cls, method', [(DropConnectRegressor, 'predict'), (DropConnectClassifier, 'predict_proba')])
def test_folds_are_those_of_one_process(cluster, cls, method):
    X, number, band = rows()
    y = band if cls is DropConnectClassifier else number
    alone = cross_val_predict(make(cls), X, y, cv=4, method=method)
    with parallel_config('dask'): together = cross_val_predict(make(cls), X, y, cv=4, method=method)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_data_is_sent_once(cluster):
    X, y, _ = rows()
    est = make(DropConnectRegressor)
    with parallel_config('dask', scatter=[X, y]): together = cross_val_predict(est, X, y, cv=4)
    np.testing.assert_allclose(together, cross_val_predict(est, X, y, cv=4), rtol=1e-4, atol=1e-5)


def test_members_of_two_workers_become_one_net(cluster):
    def train(seed):
        import torch
        from fastai.tabular.all import set_seed
        from helpers import make_dls

        from dropconnect_tab.all import TabTensorDL, dropconnect_config, dropconnect_learner
        torch.set_num_threads(1)
        set_seed(seed)
        learn = dropconnect_learner(make_dls(dl_type=TabTensorDL), members=2, seed=seed, own_embeds=True, n_bins=0,
                                    layers=[20], config=dropconnect_config(bn_cont=False))
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        return learn.model, learn.get_preds()[0]
    from dropconnect_tab.all import merge_members
    models, preds = zip(*cluster.gather(cluster.map(train, range(2), pure=False)))
    net = merge_members(list(models)).eval()
    from helpers import make_dls
    batches = list(make_dls().valid)
    outputs = np.concatenate([net(*o[:2]).detach().numpy() for o in batches])
    np.testing.assert_allclose(outputs, sum(o.numpy() for o in preds)/2, rtol=1e-4, atol=1e-5)
