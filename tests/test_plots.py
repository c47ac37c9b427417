"Pictures of masks, regrowth and members: each argument, each kind of net; what they show is tested in their notebook"
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch.nn.functional as F
from fastai.tabular.all import (BCEWithLogitsLossFlat, Categorify, MultiCategoryBlock, Normalize, TabularPandas, set_seed,
                                tabular_learner)
from fastcore.basics import range_of
from helpers import make_df, make_dls, plain_learner

from dropconnect_tab.all import DropConnectCallback, TabTensorDL, dropconnect_learner


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')


def drawn(axs):
    axs[0].figure.canvas.draw()
    return axs


def fit(learn, n=1):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, 1e-2)
    return learn


def orange(ax):
    image = ax.images[0].get_array()
    return image[..., 0] > image[..., 2]


@pytest.mark.slow
@pytest.mark.parametrize('mask', ['trainable', 'frozen'])
def test_masks_of_a_plain_learner_with_the_callback(dls, mask):
    learn = fit(tabular_learner(dls, layers=[30, 20], cbs=DropConnectCallback(weight_p=.3, mask=mask)))
    axs = drawn(learn.plot_masks())
    assert [o.get_title() for o in axs] == ['layers.0.0: weight_p=0.3', 'layers.1.0: weight_p=0.3']
    assert [o.get_text() for o in axs[0].get_xticklabels()] == ['shop', 'day', 'size', 'age']
    assert orange(axs[1]).mean() == .3


@pytest.mark.slow
def test_masks_of_each_member(dls):
    learn = dropconnect_learner(dls, layers=[30, 20], members=3, weight_p=[.2, .5], n_bins=8)
    seen = []
    for i in range(3):
        axs = drawn(learn.plot_masks(member=i, names=['layers.1.0']))
        seen.append(orange(axs[0]))
        assert len(axs) == 1 and seen[i].mean() == .5 and '=0.5' in axs[0].get_title()
    assert (seen[0] != seen[1]).any()
    # a column of numbers is as wide as its embedding, and keeps its name
    ax = drawn(learn.plot_masks())[0]
    assert [o.get_text() for o in ax.get_xticklabels()] == ['shop', 'day', 'size', 'age']
    ends = [o.get_xdata()[0] for o in ax.lines]
    assert ends[-1]-ends[-2] == 1+8
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=f'member={wrong}: there are 3'): learn.plot_masks(member=wrong)


def test_larger_weights_are_darker(dls):
    learn = plain_learner(dls, layers=[30], weight_p=.5)
    l = learn.model.layers[0][0]
    keep = learn.model.weight_masks.keeps['layers.0.0']
    u, i = np.argwhere(keep.numpy())[0]
    l.weight.data[u, i] = 100.
    image = learn.plot_masks()[0].images[0].get_array()
    assert image.sum(-1)[keep.numpy()].min() == image[u, i].sum()


@pytest.mark.slow
def test_given_axes_are_drawn_on(dls):
    learn = fit(dropconnect_learner(dls, layers=[30], members=2, weight_p=.5))
    for plot, n in ((learn.plot_masks, 1), (learn.plot_regrowth, 1), (learn.plot_members, 2)):
        mine = plt.subplots(1, n, squeeze=False)[1][0]
        before = plt.get_fignums()
        assert drawn(plot(axs=mine)) is mine and all(o.has_data() for o in mine) and plt.get_fignums() == before


def test_regrowth_begins_at_nothing(dls):
    learn = dropconnect_learner(dls, layers=[30], members=2, weight_p=.5)
    assert '0.00 of the kept' in learn.plot_regrowth()[0].get_title()
    axs = fit(learn).plot_regrowth(bins=7)
    assert '0.00 of the kept' not in axs[0].get_title()
    assert [len(o.patches) for o in axs[0].containers] == [7, 7]


def test_members_on_other_rows(dls):
    learn = fit(dropconnect_learner(dls, layers=[30], members=3))
    def vote(**kwargs): return learn.plot_members(**kwargs)[0].lines[0].get_ydata()[0]
    df = make_df(200, seed=5)
    assert len({vote(), vote(ds_idx=0), vote(dl=learn.dls.test_dl(df, with_labels=True))}) == 3


def test_members_need_targets(dls):
    learn = dropconnect_learner(dls, layers=[30], members=2)
    with pytest.raises(ValueError, match='no targets.*with_labels=True'):
        learn.plot_members(dl=learn.dls.test_dl(make_df(50).drop(columns='price')))


@pytest.mark.slow
@pytest.mark.parametrize('y', [['price', 'cost'], 'band', 'several'])
def test_members_with_other_targets(y):
    df = make_df()
    if y == 'several':
        df = df.assign(up=df.price > 0, big=df['size'] > 0)
        to = TabularPandas(df, [Categorify, Normalize], ['shop'], ['size', 'age'], ['up', 'big'],
                           MultiCategoryBlock(encoded=True, vocab=['up', 'big']), [range_of(320), list(range(320, 400))])
        loaders = to.dataloaders(bs=64, dl_type=TabTensorDL, device='cpu')
    else: loaders = make_dls(y)
    set_seed(0)
    learn = fit(dropconnect_learner(loaders, layers=[30], members=3), 3)
    axs = drawn(learn.plot_members())
    with learn.no_bar(): loss = learn.validate()[0]
    vote = axs[0].lines[0].get_ydata()[0]
    assert np.isclose(vote, loss if y in ('band', 'several') else loss**.5, rtol=1e-4)
    assert axs[0].get_ylabel() == ('log loss' if y in ('band', 'several') else 'RMSE')


@pytest.mark.parametrize('kwargs,plot,message', [
    (dict(mask='resampled'), 'plot_masks', 'resampled'), (dict(weight_p=0), 'plot_regrowth', 'no weight was dropped'),
    (dict(mask='frozen'), 'plot_regrowth', 'frozen'), (dict(members=1), 'plot_members', 'without members')])
def test_nothing_to_plot(dls, kwargs, plot, message):
    with pytest.raises(ValueError, match=message): getattr(dropconnect_learner(dls, **kwargs), plot)()


def test_no_masks_before_training(dls):
    with pytest.raises(ValueError, match='train it with a DropConnectCallback first'):
        tabular_learner(dls, cbs=DropConnectCallback()).plot_masks()


def test_members_of_one_logit():
    learn = fit(dropconnect_learner(make_dls('cheap'), layers=[20], members=3, n_out=1, loss_func=BCEWithLogitsLossFlat()))
    axs = drawn(learn.plot_members())
    probs, targs = learn.member_preds()[..., 0].T, learn.get_preds()[1]
    losses = [F.binary_cross_entropy(o, targs.float().view(-1)) for o in probs]
    assert np.allclose([o.get_height() for o in axs[0].patches], losses, atol=1e-5)


def test_one_layer_by_its_name(dls):
    learn = plain_learner(dls, layers=[30, 20], weight_p=.5)
    assert [o.get_title() for o in learn.plot_masks(names='layers.1.0')] == ['layers.1.0: weight_p=0.5']
    with pytest.raises(ValueError, match="name='layers.9.0' is unknown"): learn.plot_masks(names='layers.9.0')
