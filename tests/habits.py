"""What fastai's users do with a learner: one function each, for every way to mask a net.

A habit takes a way and loaders, and returns the learner that it leaves. A way has
- `learner(dls, **kwargs)`: a new learner with its mask, and a `Watch`,
- `resumed(dls)`: one that is to go on with a checkpoint, `late(learn)`: one that goes on with a trained dense learner,
- `one_fit(dls)`: a learner without the mask's callback, and the callback, or None; `callback()`: a further one.

`test_lifecycle.py` runs them with the masks of this package, `benchmarks/lifecycle.py` some of them with other tools.
"""
import copy
import io
import itertools
import pickle
import warnings
from dataclasses import dataclass
from functools import partial

import torch
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.tabular.all import (Adam, Callback, CrossEntropyLossFlat, EarlyStoppingCallback, L, Lamb,
                                Larc, Lookahead, OptimWrapper, QHAdam, RAdam, ReduceLROnPlateau, RMSProp,
                                SaveModelCallback, SGD, TerminateOnNaNCallback, accuracy, load_learner,
                                params, ranger, tabular_learner)
from helpers import make_df, make_dls
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dropconnect_tab.masks import unwrap

layers = [30, 20]


class Watch(Callback):
    "Counts how often a net goes from unmasked to masked, and looks at it before each training batch and after each step"
    order, name = 100, 'watch'
    def __init__(self): self.starts, self.batches, self.was_masked = 0, 0, False

    def masked(self): raise NotImplementedError
    def look(self): "A mask that is held: an `AssertionError` if it is not what it was"
    def fit_cbs(self): return []  # what a way gives to each fit
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
        self.look()

    def after_step(self):
        if not hasattr(self.learn, 'lr_finder'): self.look()


def state(learn): return {k: v.clone() for k, v in learn.model.state_dict().items()}


def zeros(learn):
    "Share of a net's weights (those of more than one dimension) that are exactly 0"
    ws = [v for k, v in learn.model.state_dict().items() if v.ndim > 1 and k.startswith('layers')][:-1]
    return sum(int((w == 0).sum()) for w in ws)/sum(w.numel() for w in ws)


def check_same(before, learn, what, was):
    "A checkpoint is what it was, bit for bit; the message says what became of the zeros, which were `was`"
    now = state(learn)
    assert before.keys() == now.keys() and all(torch.equal(before[k], v) for k, v in now.items()), \
        f"after {what}: {f'zeros {was:.0%} → {zeros(learn):.0%}' if abs(was-zeros(learn)) > .01 else 'other weights'}"


def moves_nothing(f, learn):
    before, was = state(learn), zeros(learn)
    f(learn)
    check_same(before, learn, f.__name__, was)


def fit(learn, n=1, how='fit', cbs=None, **kwargs):
    with learn.no_bar(), learn.no_logging():
        getattr(learn, how)(n, cbs=[*learn.watch.fit_cbs(), *L(cbs)], **kwargs)
    return learn


def quietly(learn, *fs):
    with learn.no_bar(), learn.no_logging(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for f in fs: f()


def validate(learn): quietly(learn, learn.validate, learn.get_preds, partial(learn.get_preds, ds_idx=0))


def look(learn):
    "All that looks at a net without training it"
    validate(learn)
    quietly(learn, partial(learn.predict, make_df(1).iloc[0][learn.dls.x_names.items]), learn.summary, learn.show_results)


def lr_find(learn):
    with learn.no_bar(): learn.lr_find(show_plot=False, num_it=12)


def outputs(model, dls):
    "What `model` says in inference to the first validation rows"
    model.eval()
    with torch.no_grad(): return model(*dls.valid.one_batch()[:2])


# --- the rows -------------------------------------------------------------------------------------------------------

@dataclass
class Habit:
    "A row: `of_net` if it is about the net, its class or its data; else it says something of callbacks only"
    do: callable
    of_net: bool = False
    repeats: bool = False  # the same as another row, but for its optimizer
    starts: dict = None  # column → how often its mask starts, where it is not once

    def __call__(self, way, dls): return self.do(way, dls)


habits = {}


def habit(f=None, of_net=False, starts=None, **variants):
    """A row of the matrix; with `name=[...]` one row for each value"""
    if f is None: return partial(habit, of_net=of_net, starts=starts, **variants)
    if not variants: habits[f.__name__] = Habit(f, of_net, False, starts)
    for name, values in variants.items():
        for i, (k, v) in enumerate(values.items() if isinstance(values, dict) else zip(map(str, values), values)):
            habits[f'{f.__name__}[{k}]'] = Habit(partial(f, **{name: v}), of_net, name == 'opt' and i > 0, starts)
    return f


@habit(of_net=True)
def looking_before_and_after(way, dls):
    learn = way.learner(dls)
    moves_nothing(validate, learn)
    moves_nothing(look, learn)
    assert not learn.watch.batches
    fit(learn)
    assert learn.watch.starts
    moves_nothing(look, learn)
    return learn


@habit(of_net=True)
def lr_find_first(way, dls):
    learn = way.learner(dls)
    moves_nothing(lr_find, learn)
    fit(learn)
    assert learn.watch.starts
    return learn


@habit
def lr_find_between_fits(way, dls):
    learn = fit(way.learner(dls))
    moves_nothing(lr_find, learn)
    return fit(learn)


@habit(how=['fit', 'fit_one_cycle', 'fit_flat_cos', 'fine_tune'])
def fitting_twice(way, dls, how): return fit(fit(way.learner(dls), how=how), how=how)


@habit
def fit_sgdr(way, dls): return fit(way.learner(dls), 2, 'fit_sgdr', cycle_len=1)


@habit(of_net=True)
def callback_for_one_fit_only(way, dls):
    learn, cb = way.one_fit(dls)
    fit(learn, cbs=cb)
    learn.watch.fit_cbs = list
    return fit(learn, 2)


@habit
def a_callback_for_each_fit(way, dls):
    learn, _ = way.one_fit(dls)
    for _ in range(2): fit(learn, cbs=way.callback())
    return learn


@habit(cb={
    'SaveModel': SaveModelCallback, 'SaveModel at end': partial(SaveModelCallback, at_end=True),
    'SaveModel every epoch': partial(SaveModelCallback, every_epoch=True, with_opt=True),
    'EarlyStopping': partial(EarlyStoppingCallback, min_delta=9),
    'ReduceLROnPlateau': partial(ReduceLROnPlateau, min_delta=9), 'TerminateOnNaN': TerminateOnNaNCallback,
    'GradientClip': partial(GradientClip, .1), 'GradientAccumulation': partial(GradientAccumulation, 128)})
def callbacks_of_fastai(way, dls, cb): return fit(fit(way.learner(dls), 3, cbs=cb()), 2, cbs=cb())


@habit(how={'bf16': 'to_bf16', 'fp16': 'to_fp16'})
def mixed_precision(way, dls, how):
    "On a CPU fastai's MixedPrecision has nothing to scale or cast: the loop is another, the numbers are not"
    return fit(getattr(way.learner(dls), how)(), 2)


@habit(of_net=True)
def bf16_autocast_on_the_cpu(way, dls):
    class Cast(Callback):
        def before_batch(self):
            self.autocast = torch.autocast('cpu', torch.bfloat16)
            self.autocast.__enter__()
        def after_pred(self): self.learn.pred = self.pred.float()
        def after_loss(self): self.autocast.__exit__(None, None, None)
    return fit(way.learner(dls), 2, cbs=Cast())


def halves(model): return L(params(torch.nn.ModuleList([*model.embeds, model.layers[0]])), params(model.layers[1:]))


# A callback resamples a layer only while the layer trains: back on all of them, it has started twice
twice = {'resampled, callback': 2}


@habit(starts=twice)
def freezing_and_unfreezing(way, dls):
    "The mask starts on all layers, then a part of the net is frozen in fastai's sense"
    learn = fit(way.learner(dls, splitter=halves))
    learn.freeze()
    fit(learn)
    learn.unfreeze()
    return fit(learn)


@habit(starts=twice)
def fine_tune_with_a_splitter_after_a_fit(way, dls):
    return fit(fit(way.learner(dls, splitter=halves)), how='fine_tune')


def lookahead(ps, **kwargs): return Lookahead(Adam(ps, **kwargs))


optimizers = {
    'SGD momentum': partial(SGD, mom=.9), 'SGD': SGD, 'SGD l2': partial(SGD, mom=.9, wd=.1, decouple_wd=False),
    'RMSProp': RMSProp, 'RMSProp momentum': partial(RMSProp, mom=.9), 'Adam': Adam,
    'Adam l2': partial(Adam, wd=.1, decouple_wd=False), 'Adam wd': partial(Adam, wd=.1), 'RAdam': RAdam,
    'QHAdam': QHAdam, 'Larc': Larc, 'Larc clip=False': partial(Larc, clip=False), 'Lamb': Lamb,
    'Lookahead': lookahead, 'ranger': ranger, 'torch AdamW': partial(OptimWrapper, opt=torch.optim.AdamW),
    'torch SGD nesterov': partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=.9, nesterov=True)),
    'torch Adagrad': partial(OptimWrapper, opt=torch.optim.Adagrad)}


@habit(opt=optimizers)
def training_with(way, dls, opt): return fit(way.learner(dls, opt_func=opt, lr=1e-2), 2)


@habit(how=list(itertools.product(['same', 'fresh'], [True, False])), of_net=True)
def save_and_load(way, dls, how):
    where, with_opt = how
    learn = fit(way.learner(dls), 2)
    learn.save('m', with_opt=with_opt)
    saved, was, watch = state(learn), zeros(learn), learn.watch
    if where == 'same': fit(learn)
    else: learn = way.resumed(dls)
    learn.load('m', with_opt=with_opt)
    check_same(saved, learn, 'load', was)
    if where == 'fresh': learn.watch.go_on_from(watch)
    return fit(learn)


@habit(how=['fit', 'fit_one_cycle'])
def resume_by_start_epoch(way, dls, how):
    learn = fit(way.learner(dls), 2, cbs=SaveModelCallback(every_epoch=True, with_opt=True))
    again = way.learner(dls)
    again.load('model_1', with_opt=True)
    again.watch.go_on_from(learn.watch)
    fit(again, 4, how, start_epoch=2)
    assert again.watch.batches == 2*len(dls.train)
    return again


@habit(of_net=True)
def export_and_load(way, dls):
    learn = fit(way.learner(dls))
    watch, before, was, wanted = learn.watch, state(learn), zeros(learn), outputs(learn.model, dls)
    learn.remove_cb(watch)
    learn.export('e.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        again = load_learner(learn.path/'e.pkl')
    check_same(before, again, 'load_learner', was)
    again.dls = dls
    moves_nothing(validate, again)
    assert torch.equal(outputs(again.model, dls), wanted)
    again.add_cb(watch)
    return fit(again)


@habit(of_net=True)
def deepcopy_a_learner(way, dls):
    learn = fit(way.learner(dls))
    before, was = state(learn), zeros(learn)
    twin = fit(copy.deepcopy(learn))
    check_same(before, learn, 'fit of a copy', was)
    return twin


@habit
def deepcopy_before_training(way, dls): return fit(copy.deepcopy(way.learner(dls)))


@habit
def pickle_a_learner(way, dls): return fit(pickle.loads(pickle.dumps(fit(way.learner(dls)))))


@habit(of_net=True)
def pickle_a_model(way, dls):
    learn = fit(way.learner(dls))
    before, was, wanted, f = state(learn), zeros(learn), outputs(learn.model, dls), io.BytesIO()
    torch.save(learn.model, f)
    f.seek(0)
    learn.model, learn.opt = torch.load(f, weights_only=False), None
    check_same(before, learn, 'pickle', was)
    assert torch.equal(outputs(learn.model, dls), wanted)
    return fit(learn)


@habit
def torch_compile(way, dls):
    learn = way.learner(dls)
    learn.model = torch.compile(learn.model, backend='aot_eager')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        fit(learn, 2)
        fit(learn)
    learn.model = unwrap(learn.model)
    return learn


@habit(of_net=True)
def torch_export(way, dls):
    learn, rows = fit(way.learner(dls)), dls.valid.one_batch()[:2]
    wanted = outputs(learn.model, dls)
    assert torch.allclose(torch.export.export(learn.model, rows).module()(*rows), wanted, atol=1e-5)
    return learn


@habit(of_net=True)
def state_dict_into_a_plain_model(way, dls):
    learn = fit(way.learner(dls))
    way.plain(learn).load_state_dict(learn.model.state_dict())
    return learn


@habit
def a_mask_applied_late(way, dls):
    "On a net that was trained without, over the state of its optimizer"
    dense = tabular_learner(dls, layers=layers)
    quietly(dense, partial(dense.fit, 2, 1e-2))
    return fit(way.late(dense), 2, reset_opt=False)


class Average(Callback):
    "Averages weights during training, on a deep copy of the model, as EMA and SWA do"
    order = 50
    def after_step(self):
        if not hasattr(self, 'avg'): self.avg = AveragedModel(self.learn.model, multi_avg_fn=self.fn)
        self.avg.update_parameters(self.learn.model)


@habit(fn={'EMA': get_ema_multi_avg_fn(.9), 'SWA': None}, of_net=True)
def averaged_copies(way, dls, fn):
    learn = way.learner(dls)
    avg = Average()
    avg.fn = fn
    fit(learn, 2, cbs=avg)
    learn.watch.look(avg.avg.module)
    learn.model.load_state_dict(avg.avg.module.state_dict())
    return fit(learn)


@habit(of_net=True)
def averaged_copy_made_before_training(way, dls):
    "As PyTorch's documentation does it: the average exists before the mask has started"
    learn = way.learner(dls)
    avg = AveragedModel(learn.model)
    for _ in range(2): avg.update_parameters(fit(learn).model)
    learn.watch.look(avg.module)
    return learn


@habit(y={'binary': 'cheap', 'multi-class': 'band'}, of_net=True)
def classification(way, dls, y):
    learn = fit(way.learner(make_dls(y, path=dls.path), metrics=accuracy), 2)
    look(learn)
    return learn


@habit
def class_weights(way, dls):
    loss = CrossEntropyLossFlat(weight=torch.tensor([1., 2., 3.]))
    return fit(way.learner(make_dls('band', path=dls.path), loss_func=loss), 2)


@habit(of_net=True)
def several_targets(way, dls):
    learn = fit(way.learner(make_dls(['price', 'cost'], path=dls.path)), 2)
    look(learn)
    return learn


@habit(columns={'categorical': dict(cont=()), 'continuous': dict(cat=())}, of_net=True)
def columns_of_one_kind(way, dls, columns): return fit(way.learner(make_dls(path=dls.path, **columns)), 2)


@habit(of_net=True)
def last_batch_of_one_row(way, dls):
    # 324 rows to train on, of which fastai leaves out the last 4; 81 to validate
    dls = make_dls(n=405, bs=80, path=dls.path)
    assert len(dls.valid_ds) % 80 == 1
    learn = fit(way.learner(dls), 2)
    look(learn)
    return learn


@habit
def reset_opt(way, dls): return fit(fit(way.learner(dls)), reset_opt=True)


@habit
def stopped_in_the_middle(way, dls):
    class Stop(Callback):
        def after_batch(self):
            if self.training and self.train_iter == 3: raise KeyboardInterrupt
    learn = way.learner(dls)
    try: fit(learn, cbs=Stop())
    except KeyboardInterrupt: learn.remove_cbs(Stop)
    assert learn.watch.batches == 3
    return fit(learn, 2)


@habit
def a_new_learner_around_the_model(way, dls):
    learn = fit(way.learner(dls))
    watch = learn.watch
    learn.remove_cb(watch)
    return fit(type(learn)(dls, learn.model, loss_func=learn.loss_func, cbs=[*L(way.callback(learn.model)), watch]))
