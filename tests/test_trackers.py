"What fastai users track experiments with, on ensembles and without a network: what is logged is what the recorder has"
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastai.callback.core import Callback
from fastai.callback.progress import CSVLogger
from fastai.metrics import mae, rmse
from helpers import make_df, make_dls, root
from new_user import blocks

from dropconnect_tab.data import TabTensorDL
from dropconnect_tab.learner import dropconnect_learner
from dropconnect_tab.sklearn import DropConnectClassifier

NAMES = ['train_loss', 'valid_loss', '_rmse', 'mae']


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch): monkeypatch.chdir(tmp_path)


def fitted(cbs, **kwargs):
    "A learner with members after two epochs, and the losses and metrics of these"
    learn = dropconnect_learner(make_dls(dl_type=TabTensorDL), layers=[10], members=3, metrics=[rmse, mae], **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, cbs=cbs)
    values = pd.DataFrame(list(learn.recorder.values), columns=NAMES)
    assert values.shape == (2, 4) and values.nunique().min() == 2
    return learn, values


def from_the_recipe():
    "The callback that the recipes show"
    code = next(o for o in blocks('python', root/'docs'/'recipes.md') if 'class Log' in o)
    exec('class Log' + code.split('class Log')[1].split('\n\n')[0], ns := dict(Callback=Callback))
    return ns['Log']


@pytest.mark.parametrize('mask', ['trainable', 'frozen'])
def test_a_csv_file(mask):
    learn, values = fitted(CSVLogger('history.csv'), mask=mask)
    found = pd.read_csv('history.csv')
    assert [*found] == ['epoch', *NAMES, 'time'] and found.epoch.tolist() == [0, 1]
    assert np.allclose(found[NAMES], values, atol=1e-6)


def test_tensorboard():
    pytest.importorskip('tensorboard')
    from fastai.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    learn, values = fitted(TensorBoardCallback('runs', trace_model=False, log_preds=False))
    found = EventAccumulator('runs').Reload()
    for name in NAMES[1:]: assert np.allclose([o.value for o in found.Scalars(name)], values[name])
    n = len(learn.dls.train)
    for name, recorded in dict(lr_0=learn.recorder.lrs, train_loss=learn.recorder.losses).items():
        assert np.allclose([o.value for o in found.Scalars(name)][:n], [float(o) for o in recorded[:n]])


def test_weights_and_biases(monkeypatch):
    wandb, logged = pytest.importorskip('wandb'), []
    monkeypatch.setenv('WANDB_SILENT', 'true')
    with wandb.init(project='prices', mode='offline') as run:
        def log(data, **kwargs): logged.append((data, kwargs)), run.log(data, **kwargs)
        learn, values = fitted(from_the_recipe()(log))
        run.log({})  # ends the last step
        summary = dict(run.summary)
    assert [{**data, **kwargs} for data, kwargs in logged] == [
        {**o, 'step': i} for i, o in enumerate(values.to_dict('records'), 1)]
    assert {k: summary[k] for k in NAMES} == values.iloc[-1].to_dict() and summary['_step'] == 2
    assert [*Path('wandb').glob('offline-run-*/run-*.wandb')]


def history(mlflow, run):
    "Step → value of each metric of a run"
    client = mlflow.MlflowClient()
    return {k: {o.step: o.value for o in client.get_metric_history(run.info.run_id, k)} for k in client.get_run(
        run.info.run_id).data.metrics}


def test_mlflow():
    mlflow, Log = pytest.importorskip('mlflow'), from_the_recipe()
    mlflow.set_tracking_uri('sqlite:///runs.db')
    with mlflow.start_run() as run: learn, values = fitted(log := Log(mlflow.log_metrics))
    assert history(mlflow, run) == {k: dict(enumerate(values[k], 1)) for k in NAMES}
    with mlflow.start_run(run.info.run_id), learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=log)  # the next step
    again = history(mlflow, run)
    assert again['valid_loss'] == {1: values.valid_loss[0], 2: values.valid_loss[1], 3: learn.recorder.values[-1][1]}
    with mlflow.start_run() as run:
        df = make_df(120)
        est = DropConnectClassifier(n_epoch=2, layers=[10], members=3, random_state=0, cbs=Log(mlflow.log_metrics))
        est.fit(df[['shop', 'size']], df.band, X_val=df[['shop', 'size']], y_val=df.band)
    found = history(mlflow, run)
    for name in NAMES[:2]: assert [*found[name].values()] == pytest.approx(est.history_[name].tolist())
