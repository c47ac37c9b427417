"""How a frozen weight mask lives through ordinary fastai habits: this package and its alternatives in one matrix.

Rows are habits of a fastai user (lr_find, save and load, export, ...), those of `tests/habits.py`; columns are tools
that put a mask of 50% zeros on the two hidden layers of a tabular net. A cell is `ok`, or `broken` with the number of
what went wrong, told below.

    pip install -e '.[bench]'
    python benchmarks/lifecycle.py
    python benchmarks/lifecycle.py --out lifecycle.md

Only this package is needed: the column of a tool that is not there says `not installed`. It runs on the CPU, with
fixed seeds, in less than a minute, and exits with 1 if a cell of this package is broken.
"""
import contextlib, io, sys, tempfile, textwrap, warnings
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from fastai.tabular.all import *
from fastprogress.fastprogress import progress_bar
from files import markdown, options, write_page
from torch.nn.utils import parametrize, prune

import dropconnect_tab
from dropconnect_tab.all import DropConnectCallback, draw_mask, dropconnect_learner, only_masks

sys.path.append(str(Path(__file__).resolve().parent.parent/'tests'))
from habits import Watch, habits, layers  # noqa: E402
from helpers import make_dls  # noqa: E402

notes = ["ok: no exception, and exactly the right weights are zero: 50% of each hidden layer (within 1 point), "
         "from the first training step to the last, always in the same places.",
         "Callbacks: ours and the naive one belong to the learner; fasterai's is passed to each fit, as in its "
         "docs, so lr_find, validate and get_preds run without it.",
         "fasterai: weight granularity, local context, large_final, a one-shot schedule from the first batch, and "
         "the hidden layers by name.",
         "WeightDropout is resampled DropConnect and has no fixed mask: its cells test whether the feature works, "
         "the weights survive, and training still drops about half of them.",
         "Most rows train twice, so a mask that is drawn again for each fit fails in them.",
         "A mask applied late: 'ours: model' takes the dense model's checkpoint with its optimizer, the others "
         "start on the trained learner as it is."]

rows = {"validate, get_preds, predict before training": 'looking_before_and_after',
        "lr_find first": 'lr_find_first',
        "fit twice": 'fitting_twice[fit]',
        "fit, then fit without the callback": 'callback_for_one_fit_only',
        "SaveModelCallback reloads the best": 'callbacks_of_fastai[SaveModel]',
        "save and load, same learner": "save_and_load[('same', True)]",
        "load into a fresh learner, fit on": "save_and_load[('fresh', True)]",
        "state_dict into a plain TabularModel": 'state_dict_into_a_plain_model',
        "export, load_learner": 'export_and_load',
        "deepcopy(learn) before training": 'deepcopy_before_training',
        "deepcopy(learn), then fit": 'deepcopy_a_learner',
        "pickle of the model": 'pickle_a_model',
        "fit_one_cycle": 'fitting_twice[fit_one_cycle]',
        "GradientClip": 'callbacks_of_fastai[GradientClip]',
        "mask applied late, over Adam's state": 'a_mask_applied_late',
        "AveragedModel made before training": 'averaged_copy_made_before_training',
        "AveragedModel made after a step": 'averaged_copies[SWA]',
        "torch.export of the model": 'torch_export'}

# The nets

def hidden(model):
    "The hidden layers of a `TabularModel`, in whatever a tool wrapped them"
    return [block[0] for block in model.layers[:-1]]

def weight_of(layer):
    "The weight that `layer` works with; computed here where its attribute may be old"
    if hasattr(layer, 'weight_mask'): return layer.weight_orig*layer.weight_mask  # torch prune
    if hasattr(layer, 'weight_raw'): return layer.weight_raw  # WeightDropout
    return layer.weight

def zeros(model): return [(weight_of(l)==0).detach() for l in hidden(model)]
def share(zs): return torch.cat([z.flatten() for z in zs]).float().mean().item()

def dropped_in_training(wrapper):
    "Which weights a `WeightDropout` drops in a training pass"
    wrapper.train()
    wrapper(torch.zeros(1, wrapper.module.in_features))
    return wrapper.module.weight==0

class ToolWatch(Watch):
    "Half of each hidden layer is zero after each training step, and always the same half"
    order = 200
    keeps = None # None until the first step, and of a tool that holds no mask: it drops about half in a training pass
    def __init__(self, tool):
        super().__init__()
        self.holds,self.fit_cbs = tool.holds,tool.fit_cbs

    def before_batch(self): pass # a tool may start within the first one
    def after_step(self): pass
    def after_batch(self):
        if not self.training or hasattr(self.learn, 'lr_finder'): return
        self.batches += 1
        self.starts = 1
        self.look()

    def go_on_from(self, watch): self.keeps = watch.keeps

    def look(self, model=None):
        zs = zeros(model or self.learn.model)
        if not self.holds:
            assert share(zs)==0, f"zeros 0% → {share(zs):.0%}"
            return
        assert all(abs(share([z])-0.5)<0.01 for z in zs), f"zeros {share(zs):.0%}, not 50%"
        self.keeps = self.keeps or zs
        assert all(map(torch.equal, self.keeps, zs)), "zeros in other places"

# The tools

@dataclass
class Tool:
    "One way to mask a net"
    name:str # Name of the column
    add:callable # Puts the tool on a learner, new or trained; returns the learner to go on with
    fit_cbs:callable = list # Makes the callbacks that the tool wants in each fit
    callback:callable = None # Makes the callback that it leaves on a learner
    holds:bool = True # Does it hold a mask? WeightDropout draws one at each step
    needs:str = 'dropconnect_tab' # Package that it is in
    ours:bool = False

    @property
    def installed(self): return find_spec(self.needs) is not None
    def watched(self, learn): return learn.add_cb(ToolWatch(self))
    def late(self, learn): return self.watched(self.add(learn))
    def learner(self, dls, **kwargs): return self.late(tabular_learner(dls, layers=layers, **kwargs))
    resumed = learner

    def one_fit(self, dls):
        if self.callback is None: return self.learner(dls),None
        return self.watched(tabular_learner(dls, layers=layers)),self.callback()

    def plain(self, learn): return tabular_learner(learn.dls, layers=layers).model

    def check(self, learn):
        "The mask holds, and the optimizer has the hidden layers' weights"
        learn.watch.look()
        has = {id(p) for p,*_ in learn.opt.all_params()}
        assert all(id(p) in has for l in hidden(learn.model) for p in l.parameters()), \
            "the optimizer does not have a hidden layer's weight, so it does not learn"
        if not self.holds: # and it still drops
            assert all(abs(share([dropped_in_training(l)])-0.5)<0.1 for l in hidden(learn.model)), "it drops no more"

def add_our_model(learn):
    "A frozen net in place of the dense one, with its weights and optimizer if it was trained"
    new = dropconnect_learner(learn.dls, layers=layers, mask='frozen', **only_masks)
    if learn.opt is None: return new
    learn.save('dense')
    return new.load('dense')

def our_callback(): return DropConnectCallback(mask='frozen')

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

tools = [Tool('ours: model', add_our_model, ours=True),
         Tool('ours: callback', lambda learn: learn.add_cb(our_callback()), callback=our_callback, ours=True),
         Tool('fasterai SparsifyCallback', noop, fit_cbs=lambda: [fasterai_callback()], needs='fasterai'),
         Tool('torch prune', add_prune),
         Tool('parametrize', add_parametrize),
         Tool('WeightDropout', add_weight_dropout, holds=False),
         Tool('naive callback', lambda learn: learn.add_cb(NaiveCallback()), callback=NaiveCallback)]

# The matrix

def first_line(e):
    "The first line of an error, and those after it where it only announces them; what was found of a mask"
    lines = [l.strip() for l in str(e).splitlines() if l.strip()] or ['']
    if isinstance(e, AssertionError): return lines[-1]  # fastai names the callback before
    n = next((i for i,l in enumerate(lines, 1) if not l.endswith(':')), len(lines))
    text = textwrap.shorten(' '.join(lines[:n]), 320, placeholder=' ...')
    return f"{type(e).__name__}: {text}"

def try_habit(habit, tool):
    "One cell: 'ok', 'broken: ...' or 'not installed'"
    if not tool.installed: return 'not installed'
    set_seed(0)
    with tempfile.TemporaryDirectory() as path, contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: tool.check(habit(tool, make_dls(path=path)))
        except Exception as e: return f"broken: {first_line(e)}"
    return 'ok'

def fill(bar=progress_bar):
    "All cells: `{habit: [cell of each tool]}`"
    cells = {(r,i):None for r in rows for i in range(len(tools))}
    for r,i in bar(list(cells)): cells[r,i] = try_habit(habits[rows[r]], tools[i])
    return {r:[cells[r,i] for i in range(len(tools))] for r in rows}

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

def as_markdown(matrix):
    "The matrix as a page of Markdown"
    short,errors = shorten(matrix)
    lines = markdown(['feature',*(t.name for t in tools)], [[h,*row] for h,row in short.items()])
    numbered = [f"{i}. `` {e} ``" for i,e in enumerate(errors, 1)]
    return '\n'.join(["# A frozen mask with fastai's features", '', *(f"- {o}" for o in notes), '', *lines,
                      *numbered, '', versions(), ''])

def main(args=None):
    "Print the matrix; exit with 1 if one of our cells is broken"
    out = options(__doc__, folder=None).parse_args(args).out
    matrix = fill()
    write_page(as_markdown(matrix), out)
    sys.exit(int(any(c.startswith('broken') for row in matrix.values() for c,t in zip(row, tools) if t.ours)))

if __name__ == '__main__': main()
