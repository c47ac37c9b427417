"""Every fastai habit keeps the mask: one matrix, habits × ways to use a mask.

A row is a function decorated with `@habit`, a column an entry of `columns`. Each cell runs the habit on a fresh
learner; a `Watch` looks at every training batch and every step, and `check` at the net afterwards.
"""
import copy
import io
import itertools
import pickle
import subprocess
import sys
import warnings
from functools import partial
from types import MappingProxyType

import pytest
import torch
from conftest import hidden, make_df, make_dls, plain_learner
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.tabular.all import (Adam, Callback, CrossEntropyLossFlat, EarlyStoppingCallback, L, Lamb, Larc, Lookahead,
                                OptimWrapper, QHAdam, RAdam, ReduceLROnPlateau, RMSProp, SaveModelCallback, SGD,
                                TabularModel, TerminateOnNaNCallback, accuracy, load_learner, params, ranger,
                                tabular_learner)
from torch.optim.swa_utils import AveragedModel

from dropconnect_tab.all import DropConnectCallback, DropConnectTabularModel, WeightMasks, dropconnect_learner
from dropconnect_tab.layers import DropConnectLinear
from dropconnect_tab.masks import find_linears, unwrap
from dropconnect_tab.embeddings import get_cont_edges

pytestmark = pytest.mark.slow

settings, layers, n_bins = dict(weight_p=.5, seed=7), [30, 20], 6


# --- columns --------------------------------------------------------------------------------------------------------

class Column:
    "One way to use a mask: `learner` makes one, `one_fit` gives the callback to a single fit"
    def __init__(self, mask, door, make=plain_learner, **net):
        self.mask, self.door, self.make, self.net = mask, door, make, net  # `net`: what else `make` is given
        # Resampled masks have no seed of their own
        self.settings = dict(mask=mask, **{k: v for k, v in settings.items() if (mask, k) != ('resampled', 'seed')})

    def callback(self): return DropConnectCallback(**self.settings)

    def learner(self, dls, **kwargs):
        if self.door == 'model': learn = self.make(dls, layers=layers, **self.net, **self.settings, **kwargs)
        else: learn = tabular_learner(dls, layers=layers, cbs=[self.callback(), *L(kwargs.pop('cbs', None))], **kwargs)
        return learn.add_cb(Watch(self.mask, learn))

    def one_fit(self, dls):
        "A learner without the callback, and the callback"
        if self.door == 'model': return self.learner(dls), DropConnectCallback()
        learn = tabular_learner(dls, layers=layers)
        return learn.add_cb(Watch(self.mask, learn)), self.callback()


columns = {
    'trainable, model': Column('trainable', 'model'),
    'frozen, model': Column('frozen', 'model'),
    'trainable, callback': Column('trainable', 'callback'),
    'frozen, callback': Column('frozen', 'callback'),
    'resampled, model': Column('resampled', 'model'),
    'resampled, callback': Column('resampled', 'callback'),
    'trainable, members': Column('trainable', 'model', members=3),
    'frozen, members': Column('frozen', 'model', members=3),
    'default': Column('trainable', 'model', make=dropconnect_learner, n_bins=n_bins),  # few rows get none
}


# --- what must hold -------------------------------------------------------------------------------------------------

def bits(w): return w.detach().view(torch.int32)


class Watch(Callback):
    "Counts how often a net goes from unmasked to masked, and looks at a frozen mask around every step"
    order = 100
    def __init__(self, mask, learn):
        self.mask, self.starts, self.batches, self.was_masked = mask, 0, 0, False
        self.keeps = WeightMasks(learn.model, **settings).draw()

    def masked(self):
        layers = hidden(unwrap(self.learn.model))
        if self.mask == 'resampled':
            return all(type(l) is DropConnectLinear and l.training and l.weight_p == .5 for l in layers.values())
        return all(not l.weight[~self.keeps[n]].any() for n, l in layers.items())

    def go_on_from(self, watch): self.starts, self.was_masked = watch.starts, watch.was_masked

    def before_batch(self):
        if not self.training: return
        if hasattr(self.learn, 'lr_finder'):
            # A net that is still to start is searched on with its mask
            if self.batches == 0 and self.learn.train_iter == 0: assert self.masked()
            return
        self.starts += (now := self.masked()) and not self.was_masked
        self.was_masked = now
        self.batches += 1
        if self.mask == 'frozen': self.exact()

    def after_step(self):
        if self.mask == 'frozen': self.exact()

    def exact(self):
        for n, l in hidden(self.learn.model).items():
            keep = self.keeps[n].to(l.weight.device)
            assert not bits(l.weight)[~keep].any(), f'{n}: a dropped weight is not +0.0'
            assert l.weight[keep].ne(0).all(), f'{n}: the mask grew'


def check(learn, starts):
    "The net after a habit: its mask has started as often as it should, its checkpoint is plain, its weights numbers"
    watch, model = learn.watch, unwrap(learn.model)
    for p in model.parameters(): assert not p.isnan().any()
    assert watch.starts == starts, f'{watch.starts} starts, not {starts}'
    if watch.mask == 'frozen': watch.exact()
    if watch.mask == 'trainable':
        for n, l in hidden(model).items(): assert float(l.weight[~watch.keeps[n]].eq(0).float().mean()) < .5, n
    if watch.mask == 'resampled':
        kind = DropConnectLinear if hasattr(model, 'weight_masks') else torch.nn.Linear
        for l in hidden(model).values(): assert type(l) is kind and l.weight.ne(0).all()
    members = getattr(model, 'members', 1)
    # Embeddings of numbers and the scale of the target have entries of their own
    extras = dict(y_scale=copy.deepcopy(getattr(model, 'y_scale', None)),
                  own_embeds=getattr(model, 'own_embeds', False))
    if getattr(model, 'cont_embed', None): extras['cont_edges'] = get_cont_edges(learn.dls.train_ds, n_bins)
    kind = TabularModel if members == 1 else partial(DropConnectTabularModel, members=members, weight_p=0, **extras)
    plain = kind([(e.num_embeddings, e.embedding_dim) for e in model.embeds], model.n_cont,
                 list(find_linears(model).values())[-1].out_features, layers)
    plain.load_state_dict(model.state_dict())


def frozen_as(keeps, model):
    for n, l in hidden(model).items(): assert torch.equal(l.weight.ne(0), keeps[n]), n


def state(learn): return {k: v.clone() for k, v in learn.model.state_dict().items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def fit(learn, n=1, how='fit', **kwargs):
    with learn.no_bar(), learn.no_logging(): getattr(learn, how)(n, **kwargs)
    return learn


def look(learn):
    "All that looks at a net without training it"
    row = make_df(1).iloc[0][learn.dls.x_names.items]
    with learn.no_bar(), learn.no_logging(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.validate()
        learn.get_preds()
        learn.get_preds(ds_idx=0)
        learn.predict(row)
        learn.summary()
        learn.show_results()


def lr_find(learn):
    with learn.no_bar(): learn.lr_find(show_plot=False, num_it=12)


def moves_nothing(f, learn):
    before = state(learn)
    f(learn)
    assert same(before, state(learn))


# --- rows -----------------------------------------------------------------------------------------------------------

habits = {}


def habit(f=None, starts=MappingProxyType({}), **variants):
    """A row of the matrix; with `name=[...]` one row for each value

    Its mask should start once, but for what `starts` says of a column."""
    if f is None: return partial(habit, starts=starts, **variants)
    if not variants: habits[f.__name__] = f, starts
    for name, values in variants.items():
        for k, v in (values.items() if isinstance(values, dict) else zip(map(str, values), values)):
            habits[f'{f.__name__}[{k}]'] = partial(f, **{name: v}), starts
    return f


@habit
def looking_before_and_after(col, dls):
    learn = col.learner(dls)
    moves_nothing(look, learn)
    assert not learn.watch.batches
    fit(learn)
    assert learn.watch.starts
    moves_nothing(look, learn)
    return learn


@habit
def lr_find_first(col, dls):
    learn = col.learner(dls)
    moves_nothing(lr_find, learn)
    fit(learn)
    assert learn.watch.starts
    return learn


@habit
def lr_find_between_fits(col, dls):
    learn = fit(col.learner(dls))
    moves_nothing(lr_find, learn)
    return fit(learn)


@habit(how=['fit', 'fit_one_cycle', 'fit_flat_cos', 'fine_tune'])
def fitting_twice(col, dls, how): return fit(fit(col.learner(dls), how=how), how=how)


@habit
def fit_sgdr(col, dls): return fit(col.learner(dls), 2, 'fit_sgdr', cycle_len=1)


@habit
def callback_for_one_fit_only(col, dls):
    learn, cb = col.one_fit(dls)
    fit(learn, cbs=cb)
    return fit(learn, 2)


@habit
def a_callback_for_each_fit(col, dls):
    learn, _ = col.one_fit(dls)
    for _ in range(2): fit(learn, cbs=col.callback())
    return learn


@habit(cb={
    'SaveModel': SaveModelCallback, 'SaveModel at end': partial(SaveModelCallback, at_end=True),
    'SaveModel every epoch': partial(SaveModelCallback, every_epoch=True, with_opt=True),
    'EarlyStopping': partial(EarlyStoppingCallback, min_delta=9),
    'ReduceLROnPlateau': partial(ReduceLROnPlateau, min_delta=9), 'TerminateOnNaN': TerminateOnNaNCallback,
    'GradientClip': partial(GradientClip, .1), 'GradientAccumulation': partial(GradientAccumulation, 128)})
def callbacks_of_fastai(col, dls, cb): return fit(fit(col.learner(dls), 3, cbs=cb()), 2, cbs=cb())


@habit(how={'bf16': 'to_bf16', 'fp16': 'to_fp16'})
def mixed_precision(col, dls, how):
    "On a CPU fastai's MixedPrecision has nothing to scale or cast: the loop is another, the numbers are not"
    return fit(getattr(col.learner(dls), how)(), 2)


@habit
def bf16_autocast_on_the_cpu(col, dls):
    class Cast(Callback):
        def before_batch(self):
            self.autocast = torch.autocast('cpu', torch.bfloat16)
            self.autocast.__enter__()
        def after_pred(self): self.learn.pred = self.pred.float()
        def after_loss(self): self.autocast.__exit__(None, None, None)
    return fit(col.learner(dls), 2, cbs=Cast())


def halves(model): return L(params(torch.nn.ModuleList([*model.embeds, model.layers[0]])), params(model.layers[1:]))


# A callback resamples a layer only while the layer trains: back on all of them, it has started twice
twice = {'resampled, callback': 2}


@habit(starts=twice)
def freezing_and_unfreezing(col, dls):
    "The mask starts on all layers, then a part of the net is frozen in fastai's sense"
    learn = fit(col.learner(dls, splitter=halves))
    learn.freeze()
    fit(learn)
    learn.unfreeze()
    return fit(learn)


@habit(starts=twice)
def fine_tune_with_a_splitter_after_a_fit(col, dls):
    return fit(fit(col.learner(dls, splitter=halves)), how='fine_tune')


def lookahead(ps, **kwargs): return Lookahead(Adam(ps, **kwargs))


@habit(opt={
    'SGD': SGD, 'SGD momentum': partial(SGD, mom=.9), 'SGD l2': partial(SGD, mom=.9, wd=.1, decouple_wd=False),
    'RMSProp': RMSProp, 'RMSProp momentum': partial(RMSProp, mom=.9), 'Adam': Adam,
    'Adam l2': partial(Adam, wd=.1, decouple_wd=False), 'Adam wd': partial(Adam, wd=.1), 'RAdam': RAdam,
    'QHAdam': QHAdam, 'Larc': Larc, 'Larc clip=False': partial(Larc, clip=False), 'Lamb': Lamb,
    'Lookahead': lookahead, 'ranger': ranger, 'torch AdamW': partial(OptimWrapper, opt=torch.optim.AdamW),
    'torch SGD nesterov': partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=.9, nesterov=True)),
    'torch Adagrad': partial(OptimWrapper, opt=torch.optim.Adagrad)})
def optimizers(col, dls, opt): return fit(col.learner(dls, opt_func=opt, lr=1e-2), 2)


@habit(how=list(itertools.product(['same', 'fresh'], [True, False])))
def save_and_load(col, dls, how):
    where, with_opt = how
    learn = fit(col.learner(dls), 2)
    learn.save('m', with_opt=with_opt)
    saved, watch = state(learn), learn.watch
    if where == 'same': fit(learn)
    else:
        learn = col.learner(dls)
        if col.door == 'callback': learn.drop_connect._start = False  # a fresh plain net goes on: `start=False`
    learn.load('m', with_opt=with_opt)
    assert same(saved, state(learn))
    if where == 'fresh': learn.watch.go_on_from(watch)
    return fit(learn)


@habit(how=['fit', 'fit_one_cycle'])
def resume_by_start_epoch(col, dls, how):
    learn = fit(col.learner(dls), 2, cbs=SaveModelCallback(every_epoch=True, with_opt=True))
    again = col.learner(dls)
    again.load('model_1', with_opt=True)
    again.watch.go_on_from(learn.watch)
    fit(again, 4, how, start_epoch=2)
    assert again.watch.batches == 2*len(dls.train)
    return again


@habit
def export_and_load_in_a_new_process(col, dls):
    learn = fit(col.learner(dls))
    watch = learn.watch
    learn.remove_cb(watch)
    keeps = {n: l.weight != 0 for n, l in hidden(learn.model).items()}
    learn.export('e.pkl')
    code = '\n'.join([
        "import sys, torch, warnings; warnings.simplefilter('ignore')",
        "from fastai.tabular.all import *",
        "from dropconnect_tab.masks import find_linears",
        f"learn = load_learner({str(learn.path/'e.pkl')!r})",
        "torch.save({n:l.weight!=0 for n,l in list(find_linears(learn.model).items())[:-1]}, sys.argv[1])"])
    done = subprocess.run([sys.executable, '-c', code, str(learn.path/'keeps.pth')], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    there = torch.load(learn.path/'keeps.pth')
    assert all(torch.equal(there[n], keeps[n]) for n in keeps)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        again = load_learner(learn.path/'e.pkl')
    again.dls = dls
    again.add_cb(watch)
    return fit(again)


@habit
def deepcopy_a_learner(col, dls): return fit(copy.deepcopy(fit(col.learner(dls))))


@habit
def deepcopy_before_training(col, dls): return fit(copy.deepcopy(col.learner(dls)))


@habit
def pickle_a_learner(col, dls): return fit(pickle.loads(pickle.dumps(fit(col.learner(dls)))))


@habit
def pickle_a_model(col, dls):
    learn = fit(col.learner(dls))
    f = io.BytesIO()
    torch.save(learn.model, f)
    f.seek(0)
    learn.model, learn.opt = torch.load(f, weights_only=False), None
    return fit(learn)


@habit
def torch_compile(col, dls):
    learn = col.learner(dls)
    learn.model = torch.compile(learn.model, backend='aot_eager')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        fit(learn, 2)
        fit(learn)
    learn.model = unwrap(learn.model)
    return learn


class Average(Callback):
    "Averages weights during training, on a deep copy of the model, as EMA and SWA do"
    order = 50
    def after_step(self):
        if not hasattr(self, 'avg'): self.avg = AveragedModel(self.learn.model, multi_avg_fn=self.fn)
        self.avg.update_parameters(self.learn.model)


@habit(fn={'EMA': torch.optim.swa_utils.get_ema_multi_avg_fn(.9), 'SWA': None})
def averaged_copies(col, dls, fn):
    learn = col.learner(dls)
    avg = Average()
    avg.fn = fn
    fit(learn, 2, cbs=avg)
    if col.mask == 'frozen': frozen_as(learn.watch.keeps, avg.avg.module)
    learn.model.load_state_dict(avg.avg.module.state_dict())
    return fit(learn)


@habit(y={'binary': 'cheap', 'multi-class': 'band'})
def classification(col, dls, y):
    dls = make_dls(y, path=dls.path)
    learn = fit(col.learner(dls, metrics=accuracy), 2)
    look(learn)
    return learn


@habit
def class_weights(col, dls):
    dls = make_dls('band', path=dls.path)
    return fit(col.learner(dls, loss_func=CrossEntropyLossFlat(weight=torch.tensor([1., 2., 3.]))), 2)


@habit
def several_targets(col, dls):
    learn = fit(col.learner(make_dls(['price', 'cost'], path=dls.path)), 2)
    look(learn)
    return learn


@habit
def no_continuous_columns(col, dls): return fit(col.learner(make_dls(cont=(), path=dls.path)), 2)


@habit
def no_categorical_columns(col, dls): return fit(col.learner(make_dls(cat=(), path=dls.path)), 2)


@habit
def last_batch_of_one_row(col, dls):
    # 324 rows to train on, of which fastai leaves out the last 4; 81 to validate
    dls = make_dls(n=405, bs=80, path=dls.path)
    assert len(dls.valid_ds) % 80 == 1
    learn = fit(col.learner(dls), 2)
    look(learn)
    return learn


@habit
def averaged_copy_made_before_training(col, dls):
    "As PyTorch's documentation does it: the average exists before the mask has started"
    learn = col.learner(dls)
    avg = AveragedModel(learn.model)
    for _ in range(2): avg.update_parameters(fit(learn).model)
    if col.mask == 'frozen': frozen_as(learn.watch.keeps, avg.module)
    return learn


@habit
def reset_opt(col, dls): return fit(fit(col.learner(dls)), reset_opt=True)


@habit
def stopped_in_the_middle(col, dls):
    class Stop(Callback):
        def after_batch(self):
            if self.training and self.train_iter == 3: raise KeyboardInterrupt
    learn = col.learner(dls)
    with pytest.raises(KeyboardInterrupt): fit(learn, cbs=Stop())
    learn.remove_cbs(Stop)
    return fit(learn, 2)


@habit
def a_new_learner_around_the_model(col, dls):
    learn = fit(col.learner(dls))
    watch = learn.watch
    learn.remove_cb(watch)
    again = DropConnectCallback() if hasattr(learn.model, 'weight_masks') else col.callback()
    return fit(type(learn)(dls, learn.model, loss_func=learn.loss_func, cbs=[again, watch]))


# --- the matrix -----------------------------------------------------------------------------------------------------

@pytest.mark.filterwarnings('ignore:CUDA is not available', 'ignore:torch.cuda.amp.GradScaler is enabled')
@pytest.mark.parametrize('col', columns)
@pytest.mark.parametrize('row', habits)
def test_matrix(row, col, tmp_path):
    f, starts = habits[row]
    check(f(columns[col], make_dls(path=tmp_path)), starts.get(col, 1))


def test_the_column_of_the_defaults_has_them(dls):
    model = columns['default'].learner(dls).model
    assert model.members == 8 and model.cont_embed is not None and model.y_scale is not None
    assert {m.p for m in model.layers.modules() if isinstance(m, torch.nn.Dropout)} == {.5}  # few rows
    for name in columns.keys() - {'default'}:
        model = columns[name].learner(dls).model
        assert not [k for k in model.state_dict() if k.startswith(('cont_embed', 'y_scale'))], name


@pytest.mark.cuda
@pytest.mark.parametrize('how', ['to_bf16', 'to_fp16', None])
@pytest.mark.parametrize('col', columns)
def test_matrix_on_cuda(col, how, tmp_path):
    dls = make_dls(path=tmp_path)
    dls.cuda()
    learn = columns[col].learner(dls)
    if how: getattr(learn, how)()
    before = copy.deepcopy(learn.watch.keeps)
    fit(learn, 2)
    assert next(learn.model.parameters()).is_cuda and (how is None or learn._grab_cbs(MixedPrecision))
    if columns[col].mask == 'frozen': learn.watch.exact()
    assert all(torch.equal(before[n], k) for n, k in learn.watch.keeps.items())
