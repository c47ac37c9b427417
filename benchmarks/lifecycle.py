"""How a frozen weight mask lives through ordinary fastai habits: this package and its alternatives in one matrix.

Rows are habits of a fastai user (lr_find, save and load, export, ...), columns are tools that put a mask of 50% zeros
on the two hidden layers of a tabular net. A cell is `ok`, or `broken` with the number of what went wrong, told below.

    pip install -e '.[bench]'
    python benchmarks/lifecycle.py
    python benchmarks/lifecycle.py --out lifecycle.md

Only this package is needed: the column of a tool that is not there says `not installed`. It runs on the CPU, with
fixed seeds, in less than a minute, and exits with 1 if a cell of this package is broken.
"""
import argparse, contextlib, io, pickle, sys, tempfile, textwrap, warnings
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

from fastai.tabular.all import *
from fastprogress.fastprogress import progress_bar
from torch.nn.utils import parametrize, prune
from torch.optim.swa_utils import AveragedModel

import dropconnect_tab
from dropconnect_tab.all import DropConnectCallback, draw_mask, dropconnect_learner, only_masks
from dropconnect_tab.bench.files import write_whole

notes = ["ok: no exception, and the exact zeros of the hidden layers are those they should be: 50% of each layer "
         "(within 1 point) from the first training step to the last, always in the same places.",
         "Callbacks: ours and the naive one belong to the learner; fasterai's is passed to each fit, as in its docs, "
         "so lr_find, validate and get_preds do not meet it.",
         "fasterai: weight granularity, local context, large_final, a one-shot schedule from the first batch, and the "
         "hidden layers by name.",
         "WeightDropout is resampled DropConnect and holds no mask: its cells ask whether the habit runs, the weights "
         "survive, and training still drops about half of them.",
         "A mask applied late: 'ours: model' takes the dense net's checkpoint with its optimizer, the others start on "
         "the trained learner as it is."]

# The data and the net

sizes,lr = [30,20],1e-2

def make_df(n=400):
    "A small table with a numeric target"
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'shop':rng.choice(list('abcdef'), n), 'day':rng.choice(list('mtwhf'), n),
                       'size':rng.normal(size=n), 'age':rng.normal(size=n)})
    df['price'] = df['size']*(df['shop']<'c') + df['age']*(df['day']=='t') + 0.1*rng.normal(size=n)
    return df

def make_dls(path):
    "Loaders of the small table; models are saved below `path`"
    df = make_df()
    return TabularDataLoaders.from_df(df, path=path, procs=[Categorify,FillMissing,Normalize],
                                      cat_names=['shop','day'], cont_names=['size','age'],
                                      y_names='price', y_block=RegressionBlock(),
                                      valid_idx=list(range(320, len(df))), bs=64, device='cpu')

def dense(dls): return tabular_learner(dls, layers=sizes)

def hidden(model):
    "The hidden layers of a `TabularModel`, in whatever a tool wrapped them"
    return [block[0] for block in model.layers[:-1]]

def weight_of(layer):
    "The weight that `layer` works with; computed here where its attribute may be old"
    if hasattr(layer, 'weight_mask'): return layer.weight_orig*layer.weight_mask  # torch prune
    if hasattr(layer, 'weight_raw'): return layer.weight_raw  # WeightDropout
    return layer.weight

def weights(model): return [weight_of(l).detach().clone() for l in hidden(model)]
def zeros(model): return [w==0 for w in weights(model)]
def share(zs): return torch.cat([z.flatten() for z in zs]).float().mean().item()
def same(a, b): return all(torch.equal(x, y) for x,y in zip(a, b))

# The tools

@dataclass
class Tool:
    "One way to mask a net"
    name:str # Name of the column
    add:callable # Puts the tool on a learner, new or trained; returns the learner to go on with
    fit_cbs:callable = list # Makes the callbacks that the tool wants in each fit
    cbs:tuple = () # Classes of callbacks that it leaves on the learner
    holds:bool = True # Does it hold a mask? WeightDropout draws one at each step
    needs:str = 'dropconnect_tab' # Package that it is in
    ours:bool = False

    @property
    def installed(self): return find_spec(self.needs) is not None
    def make(self, dls): return self.add(dense(dls))

def add_our_model(learn):
    "A frozen net in place of the dense one, with its weights and optimizer if it was trained"
    new = dropconnect_learner(learn.dls, layers=sizes, mask='frozen', **only_masks)
    if learn.opt is None: return new
    learn.save('dense')
    return new.load('dense')

def add_our_callback(learn): return learn.add_cb(DropConnectCallback(mask='frozen'))

def fasterai_callback():
    "50% of the hidden layers' weights from the first batch; by size, since its random masks are others in each fit"
    from fasterai.core.criteria import large_final
    from fasterai.core.schedule import Schedule, sched_oneshot
    from fasterai.sparse.sparsify_callback import SparsifyCallback
    return SparsifyCallback({'layers.0.0':0.5, 'layers.1.0':0.5}, 'weight', 'local', large_final,
                            Schedule(sched_oneshot, start_pct=0.), layer_type=nn.Linear)

def add_prune(learn):
    for l in hidden(learn.model): prune.random_unstructured(l, 'weight', amount=0.5)
    return learn

class Masked(nn.Module):
    "Parametrization that multiplies a weight with a mask"
    def __init__(self, keep):
        super().__init__()
        self.register_buffer('keep', keep)
    def forward(self, w): return w*self.keep

def add_parametrize(learn):
    for l in hidden(learn.model):
        parametrize.register_parametrization(l, 'weight', Masked(draw_mask(l.weight.shape, 0.5)))
    return learn

def add_weight_dropout(learn):
    from fastai.text.models.awdlstm import WeightDropout
    for block in learn.model.layers[:-1]: block[0] = WeightDropout(block[0], 0.5, layer_names='weight')
    return learn

class NaiveCallback(Callback):
    "What one writes first: draw masks in `before_fit`, put the zeros back after each step"
    def before_fit(self):
        self.keeps = [draw_mask(l.weight.shape, 0.5) for l in hidden(self.model)]
        self.after_step()

    def after_step(self):
        for l,keep in zip(hidden(self.model), self.keeps): l.weight.data.mul_(keep)

def add_naive(learn): return learn.add_cb(NaiveCallback())

tools = [Tool('ours: model', add_our_model, cbs=(DropConnectCallback,), ours=True),
         Tool('ours: callback', add_our_callback, cbs=(DropConnectCallback,), ours=True),
         Tool('fasterai SparsifyCallback', noop, fit_cbs=lambda: [fasterai_callback()], needs='fasterai'),
         Tool('torch prune', add_prune),
         Tool('parametrize', add_parametrize),
         Tool('WeightDropout', add_weight_dropout, holds=False),
         Tool('naive callback', add_naive, cbs=(NaiveCallback,))]

# What is checked

class Broken(Exception):
    "A habit ran, and left the net as it should not be"

def check(ok, message):
    if not ok: raise Broken(message)

def check_same_zeros(before, after, what):
    "The zeros are where they were"
    a,b = share(before),share(after)
    check(same(before, after), f"{what}: zeros {'in other places' if abs(a-b)<0.01 else f'{a:.0%} → {b:.0%}'}")

def check_same_weights(before, after, what):
    "The weights are bit for bit what they were"
    check_same_zeros([w==0 for w in before], [w==0 for w in after], what)
    check(same(before, after), f"{what}: the hidden weights are not what they were")

def dropped_in_training(wrapper):
    "Which weights a `WeightDropout` drops in a training pass"
    wrapper.train()
    wrapper(torch.zeros(1, wrapper.module.in_features))
    return wrapper.module.weight==0

def check_mask(tool, model, what):
    "Half of each hidden layer is zero; of a tool that holds no mask: about half in a training pass, nothing outside"
    zs,near = zeros(model),0.01
    if not tool.holds:
        check(share(zs)==0, f"{what}: zeros 0% → {share(zs):.0%}")
        zs,near = [dropped_in_training(l) for l in hidden(model)],0.1
    check(all(abs(share([z])-0.5)<near for z in zs), f"{what}: zeros {share(zs):.0%}, not 50%")

class Watch(Callback):
    "Remembers the zeros after each training step of a fit"
    order,run_valid = 200,False
    def before_fit(self): self.steps = []
    def after_batch(self): self.steps.append(zeros(self.model))

def check_trained(before, learn, what):
    "Each hidden layer moved, by an optimizer that has its weight"
    stuck = any(torch.equal(a, b) for a,b in zip(before, weights(learn.model)))
    check(not stuck, f"{what}: a hidden layer did not train")
    has = {id(p) for p,*_ in learn.opt.all_params()}
    check(all(id(p) in has for l in hidden(learn.model) for p in l.parameters()),
          f"{what}: the optimizer does not have a hidden layer's weight, so it does not learn")

def fit(tool, learn, n=1, how='fit', cbs=(), with_tool=True, **kwargs):
    "Train with all checks; returns the zeros"
    before,watch = weights(learn.model),Watch()
    tool_cbs = tool.fit_cbs() if with_tool else []
    with learn.no_bar(), learn.no_logging(): getattr(learn, how)(n, lr, cbs=[*tool_cbs, *cbs, watch], **kwargs)
    what = "after fit" if with_tool else "after fit without the callback"
    check_mask(tool, learn.model, what)
    for i,now in enumerate(watch.steps, 1): check_same_zeros(watch.steps[0], now, f"after training step {i}")
    check_same_zeros(watch.steps[0], zeros(learn.model), what)
    check_trained(before, learn, what)
    return zeros(learn.model)

def outputs(model, dls):
    "What `model` says in evaluation to the first validation rows"
    model.eval()
    with torch.no_grad(): return model(*rows(dls))

def rows(dls): return dls.valid.one_batch()[:2]

def check_same_outputs(a, b, what): check(torch.allclose(a, b, atol=1e-5), f"{what}: other outputs")

# The habits: each gets a tool and new loaders

def before_training(tool, dls):
    learn = tool.make(dls)
    before = weights(learn.model)
    with learn.no_bar():
        learn.validate()
        check_same_weights(before, weights(learn.model), "after validate")
        learn.get_preds()
        check_same_weights(before, weights(learn.model), "after get_preds")
    fit(tool, learn)

def find_lr_first(tool, dls):
    learn = tool.make(dls)
    before = weights(learn.model)
    with learn.no_bar(): learn.lr_find(num_it=20, show_plot=False)
    check_same_weights(before, weights(learn.model), "after lr_find")
    fit(tool, learn)

def fit_twice(tool, dls):
    learn = tool.make(dls)
    check_same_zeros(fit(tool, learn), fit(tool, learn), "after the second fit")

def fit_without(tool, dls):
    learn = tool.make(dls)
    first = fit(tool, learn)
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, tool.cbs)])
    check_same_zeros(first, fit(tool, learn, with_tool=False), "after fit without the callback")

def save_best(tool, dls):
    learn = tool.make(dls)
    zs = fit(tool, learn, 3, cbs=[SaveModelCallback(fname='best')])
    last = weights(learn.model)
    learn.load('best')
    check_same_weights(last, weights(learn.model), "best model")
    check_same_zeros(zs, zeros(learn.model), "best model")

def save_load(tool, dls):
    learn = tool.make(dls)
    fit(tool, learn)
    saved = weights(learn.model)
    learn.save('model')
    with learn.no_bar(), learn.no_logging(): learn.fit(1, lr, cbs=tool.fit_cbs())  # move away from what was saved
    learn.load('model')
    check_same_weights(saved, weights(learn.model), "after load")

def load_fresh(tool, dls):
    learn = tool.make(dls)
    first = fit(tool, learn)
    learn.save('model')
    fresh = tool.make(dls).load('model')
    check_same_weights(weights(learn.model), weights(fresh.model), "after load")
    check_same_zeros(first, fit(tool, fresh), "after load and fit")

def load_plain(tool, dls):
    learn = tool.make(dls)
    fit(tool, learn)
    plain = dense(dls).model
    plain.load_state_dict(learn.model.state_dict())
    check_same_weights(weights(learn.model), weights(plain), "plain model")
    check_same_outputs(outputs(learn.model, dls), outputs(plain, dls), "plain model")

def export_load(tool, dls):
    learn = tool.make(dls)
    first = fit(tool, learn)
    learn.export('export.pkl')
    loaded = load_learner(learn.path/'export.pkl')
    check_same_zeros(first, zeros(loaded.model), "load_learner")
    dl = loaded.dls.test_dl(make_df(50))
    with loaded.no_bar(): preds,_ = loaded.get_preds(dl=dl)
    check_same_zeros(first, zeros(loaded.model), "load_learner and get_preds")
    check_same_outputs(outputs(learn.model, dls), outputs(loaded.model, dls), "load_learner")
    check(len(preds)==50 and preds.isfinite().all(), "load_learner: no predictions")

def copy_fit(tool, dls):
    learn = tool.make(dls)
    fit(tool, deepcopy(learn))
    first = fit(tool, learn)
    before,twin = weights(learn.model),deepcopy(learn)
    check_same_zeros(first, fit(tool, twin), "after fit of a copy")
    check_same_weights(before, weights(learn.model), "the original after fit of its copy")

def pickle_model(tool, dls):
    learn = tool.make(dls)
    fit(tool, learn)
    model = pickle.loads(pickle.dumps(learn.model))
    check_same_weights(weights(learn.model), weights(model), "unpickled model")
    check_same_outputs(outputs(learn.model, dls), outputs(model, dls), "unpickled model")

def one_cycle(tool, dls): fit(tool, tool.make(dls), 3, 'fit_one_cycle', wd=0.1, cbs=[GradientClip(0.1)])

def mask_late(tool, dls):
    learn = dense(dls)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, lr)
    fit(tool, tool.add(learn), 2, reset_opt=False)

class Averaging(Callback):
    "Averages the weights of the epochs"
    order = 150
    def __init__(self, average=None): self.average = average
    def after_epoch(self):
        if self.average is None: self.average = AveragedModel(self.model)
        self.average.update_parameters(self.model)

def check_average(tool, learn, cb):
    "The average of a fit's epochs has the zeros of the net"
    zs = fit(tool, learn, 3, cbs=[cb])
    check_same_zeros(zs, zeros(cb.average.module), "averaged model")
    check_mask(tool, cb.average.module, "averaged model")

def average_all(tool, dls):
    learn = tool.make(dls)
    check_average(tool, learn, Averaging(AveragedModel(learn.model)))  # made before training, as in PyTorch's docs

def average_last(tool, dls): check_average(tool, tool.make(dls), Averaging())

def export_torch(tool, dls):
    learn = tool.make(dls)
    fit(tool, learn)
    expected = outputs(learn.model, dls)
    exported = torch.export.export(learn.model, rows(dls)).module()
    check_same_outputs(expected, exported(*rows(dls)), "exported model")

habits = {"validate, get_preds before training": before_training,
          "lr_find first": find_lr_first,
          "fit twice": fit_twice,
          "fit, then fit without the callback": fit_without,
          "SaveModelCallback reloads the best": save_best,
          "save and load, same learner": save_load,
          "load into a fresh learner, fit on": load_fresh,
          "state_dict into a plain TabularModel": load_plain,
          "export, load_learner": export_load,
          "deepcopy(learn), then fit": copy_fit,
          "pickle of the model": pickle_model,
          "fit_one_cycle, wd and GradientClip": one_cycle,
          "mask applied late, over Adam's state": mask_late,
          "AveragedModel made before training": average_all,
          "AveragedModel made after an epoch": average_last,
          "torch.export of the model": export_torch}

# The matrix

def first_line(e):
    "The first line of an error, and those after it where it only announces them"
    lines = [l.strip() for l in str(e).splitlines() if l.strip()] or ['']
    n = next((i for i,l in enumerate(lines, 1) if not l.endswith(':')), len(lines))
    text = textwrap.shorten(' '.join(lines[:n]), 320, placeholder=' ...')
    return text if isinstance(e, Broken) else f"{type(e).__name__}: {text}"

def try_habit(habit, tool):
    "One cell: 'ok', 'broken: ...' or 'not installed'"
    if not tool.installed: return 'not installed'
    set_seed(0)
    with tempfile.TemporaryDirectory() as path, contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: habit(tool, make_dls(path))
        except Exception as e: return f"broken: {first_line(e)}"
    return 'ok'

def fill(bar=progress_bar):
    "All cells: `{habit: [cell of each tool]}`"
    cells = {(h,t.name):None for h in habits for t in tools}
    by_name = {t.name:t for t in tools}
    for h,t in bar(list(cells)): cells[h,t] = try_habit(habits[h], by_name[t])
    return {h:[cells[h,t.name] for t in tools] for h in habits}

def shorten(matrix):
    "The cells with a number in place of what went wrong, and what went wrong, in the order of the numbers"
    errors = list(dict.fromkeys(c for row in matrix.values() for c in row if c.startswith('broken')))
    short = {h:[f"broken [{errors.index(c)+1}]" if c in errors else c for c in row] for h,row in matrix.items()}
    return short,[e.removeprefix('broken: ') for e in errors]

def versions():
    "The versions line"
    def of(package): return version(package) if find_spec(package) else 'not installed'
    others = [f"{o} {of(o)}" for o in ('fastai','torch','fasterai')]
    return ', '.join([*others, f"dropconnect_tab {dropconnect_tab.__version__}"])

def as_text(matrix):
    "The matrix for a terminal"
    short,errors = shorten(matrix)
    heads = [t.name.split(maxsplit=1) for t in tools]
    table = [['',*(w[0] for w in heads)], ['',*(w[-1] if len(w)>1 else '' for w in heads)]]
    table += [[h,*row] for h,row in short.items()]
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = ['  '.join(c.ljust(w) for c,w in zip(row, widths)).rstrip() for row in table]
    lines.insert(2, '  '.join('-'*w for w in widths))
    def wrap(text, indent): return textwrap.fill(text, 120, subsequent_indent=' '*indent, break_long_words=False)
    numbered = [wrap(f"[{i}] {e}", 4) for i,e in enumerate(errors, 1)]
    return '\n'.join([*(wrap(f"- {o}", 2) for o in notes), '', *lines, '', *numbered, '', versions()])

def as_markdown(matrix):
    "The matrix as a page of Markdown"
    short,errors = shorten(matrix)
    table = [['habit',*(t.name for t in tools)], ['---']*(len(tools)+1), *([h,*row] for h,row in short.items())]
    lines = [f"| {' | '.join(row)} |" for row in table]
    numbered = [f"{i}. `` {e} ``" for i,e in enumerate(errors, 1)]
    return '\n'.join(["# A frozen mask in a fastai life", '', *(f"- {o}" for o in notes), '', *lines, '',
                      *numbered, '', versions(), ''])

def main(args=None):
    "Print the matrix; exit with 1 if one of our cells is broken"
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--out', help="Markdown file to write the matrix to")
    out = p.parse_args(args).out
    matrix = fill()
    print(f'\n{as_text(matrix)}')
    if out: write_whole(out, lambda path: path.write_text(as_markdown(matrix), encoding='utf-8'))
    sys.exit(int(any(c.startswith('broken') for row in matrix.values() for c,t in zip(row, tools) if t.ours)))

if __name__ == '__main__': main()
