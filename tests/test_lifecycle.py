"""Every habit of fastai's users keeps the mask: one matrix, `habits` × ways to use a mask.

Each cell runs a habit on a fresh learner; its watch looks at every training batch and every step, and `check` at the
net afterwards. A row about the net runs in every column, other rows in those where a callback is at work.
"""
import copy
import subprocess
import sys
from functools import partial

import pytest
import torch
from fastai.callback.fp16 import MixedPrecision
from fastai.tabular.all import L, TabularModel, tabular_learner
from habits import Watch, fit, habits, layers
from helpers import hidden, make_dls, plain_learner

from dropconnect_tab.all import DropConnectCallback, DropConnectTabularModel, WeightMasks, dropconnect_learner
from dropconnect_tab.embeddings import get_cont_edges
from dropconnect_tab.layers import DropConnectLinear
from dropconnect_tab.masks import find_linears, unwrap

pytestmark = pytest.mark.slow

settings, n_bins = dict(weight_p=.5, seed=7), 6


# --- columns --------------------------------------------------------------------------------------------------------

class Column:
    "One way to use a mask: with our model, or with the callback on fastai's"
    def __init__(self, mask, door, make=plain_learner, **net):
        self.mask, self.door, self.make, self.net = mask, door, make, net  # `net`: what else `make` is given
        # Resampled masks have no seed of their own
        self.settings = dict(mask=mask, **{k: v for k, v in settings.items() if (mask, k) != ('resampled', 'seed')})
        self.has_callback = door == 'callback' or mask == 'frozen'

    def callback(self, model=None, **kwargs):
        return DropConnectCallback() if hasattr(model, 'weight_masks') else DropConnectCallback(**self.settings, **kwargs)

    def watched(self, learn): return learn.add_cb(MaskWatch(self.mask, learn))

    def learner(self, dls, start=True, **kwargs):
        if self.door == 'model': learn = self.make(dls, layers=layers, **self.net, **self.settings, **kwargs)
        else:
            cbs = [self.callback(start=start), *L(kwargs.pop('cbs', None))]
            learn = tabular_learner(dls, layers=layers, cbs=cbs, **kwargs)
        return self.watched(learn)

    def resumed(self, dls): return self.learner(dls, start=False)

    def one_fit(self, dls):
        if self.door == 'model': return self.learner(dls), DropConnectCallback()
        return self.watched(tabular_learner(dls, layers=layers)), self.callback()

    def late(self, dense):
        if self.door == 'callback': return self.watched(dense.add_cb(self.callback()))
        learn = self.learner(dense.dls)
        if learn.model.members == 1:  # members have no dense net to go on from
            dense.save('dense')
            learn.load('dense')
        return learn

    def plain(self, learn):
        "A net without masks that takes the checkpoint: fastai's, where there is one net with nothing but a mask"
        model = unwrap(learn.model)
        members = getattr(model, 'members', 1)
        extras = dict({o: copy.deepcopy(getattr(model, o, None)) for o in ('y_scale', 'cont_scale')},
                      own_embeds=getattr(model, 'own_embeds', False))
        if getattr(model, 'cont_embed', None):
            extras |= dict(cont_edges=get_cont_edges(learn.dls.train_ds, n_bins), cont_emb_sz=model.cont_embed.emb_sz)
        if getattr(model, 'leave_out', None): extras['oob'] = model.leave_out.share
        kind = TabularModel if members == 1 else partial(DropConnectTabularModel, members=members, weight_p=0, **extras)
        return kind([(e.num_embeddings, e.embedding_dim) for e in model.embeds], model.n_cont,
                    list(find_linears(model).values())[-1].out_features, layers)


columns = {
    'trainable, model': Column('trainable', 'model'),
    'frozen, model': Column('frozen', 'model'),
    'trainable, callback': Column('trainable', 'callback'),
    'frozen, callback': Column('frozen', 'callback'),
    'resampled, model': Column('resampled', 'model'),
    'resampled, callback': Column('resampled', 'callback'),
    'frozen, members': Column('frozen', 'model', members=3),
    'default': Column('trainable', 'model', make=dropconnect_learner, n_bins=n_bins),  # few rows get none
    'rows left out': Column('trainable', 'model', make=dropconnect_learner, n_bins=n_bins, oob=.5),
}


# --- what must hold -------------------------------------------------------------------------------------------------

def bits(w): return w.detach().view(torch.int32)


class MaskWatch(Watch):
    "Knows the mask of the seed beforehand, and holds a frozen one to it bit for bit"
    def __init__(self, mask, learn):
        super().__init__()
        self.mask, self.keeps = mask, WeightMasks(learn.model, **settings).draw()

    def masked(self):
        layers = hidden(unwrap(self.learn.model))
        if self.mask == 'resampled':
            return all(type(l) is DropConnectLinear and l.training and l.weight_p == .5 for l in layers.values())
        return all(not l.weight[~self.keeps[n]].any() for n, l in layers.items())

    def look(self, model=None):
        if self.mask != 'frozen': return
        for n, l in hidden(model or self.learn.model).items():
            keep = self.keeps[n].to(l.weight.device)
            assert not bits(l.weight)[~keep].any(), f'{n}: a dropped weight is not +0.0'
            assert l.weight[keep].ne(0).all(), f'{n}: the mask grew'


def check(way, learn, starts):
    "The net after a habit: its mask has started as often as it should, its checkpoint is plain, its weights numbers"
    watch, model = learn.watch, unwrap(learn.model)
    for p in model.parameters(): assert not p.isnan().any()
    assert watch.starts == starts, f'{watch.starts} starts, not {starts}'
    watch.look()
    if watch.mask == 'trainable':
        for n, l in hidden(model).items(): assert float(l.weight[~watch.keeps[n]].eq(0).float().mean()) < .5, n
    if watch.mask == 'resampled':
        kind = DropConnectLinear if hasattr(model, 'weight_masks') else torch.nn.Linear
        for l in hidden(model).values(): assert type(l) is kind and l.weight.ne(0).all()
    way.plain(learn).load_state_dict(model.state_dict())


# --- the matrix -----------------------------------------------------------------------------------------------------

def cells(columns, repeats=True):
    for name, col in columns.items():
        for row, h in habits.items():
            if h.of_net or (repeats and col.mask == 'frozen' if h.repeats else col.has_callback): yield row, name


def check_cell(row, col, way, tmp_path):
    check(way, habits[row](way, make_dls(path=tmp_path)), (habits[row].starts or {}).get(col, 1))


@pytest.mark.filterwarnings('ignore:CUDA is not available', 'ignore:torch.cuda.amp.GradScaler is enabled')
@pytest.mark.parametrize('row, col', cells(columns))
def test_matrix(row, col, tmp_path): check_cell(row, col, columns[col], tmp_path)


def test_the_column_of_the_defaults_has_them(dls):
    model = columns['default'].learner(dls).model
    assert model.members == 8 and model.cont_embed is not None and model.y_scale is not None
    assert {m.p for m in model.layers.modules() if isinstance(m, torch.nn.Dropout)} == {.3}  # few rows
    for name in columns.keys() - {'default', 'rows left out'}:
        model = columns[name].learner(dls).model
        assert not [k for k in model.state_dict() if k.startswith(('cont_', 'y_scale'))], name


def test_a_learner_that_is_loaded_in_a_new_process(tmp_path):
    "One has all that a pickle must bring along: frozen layers, members, the callback"
    learn = fit(columns['frozen, members'].learner(make_dls(path=tmp_path)))
    learn.remove_cb(learn.watch)
    learn.export('e.pkl')
    code = ("import sys, torch, warnings; warnings.simplefilter('ignore'); from fastai.tabular.all import load_learner; "
            "learn = load_learner(sys.argv[1]); torch.save((learn.model.state_dict(), len(learn.cbs)), sys.argv[2])")
    subprocess.run([sys.executable, '-c', code, tmp_path/'e.pkl', tmp_path/'there.pth'], check=True)
    there, n_cbs = torch.load(tmp_path/'there.pth')
    assert n_cbs == len(learn.cbs) and all(torch.equal(there[k], v) for k, v in learn.model.state_dict().items())


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
    learn.watch.look()
    assert all(torch.equal(before[n], k) for n, k in learn.watch.keeps.items())
