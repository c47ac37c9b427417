"A folded net answers as the net does; an exported one answers as its predictor, where there is no fastai."
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.tabular.all import (BCEWithLogitsLossFlat, Categorify, Learner, MSELossFlat,
                                MultiCategoryBlock, Normalize, TabularModel, tabular_learner)
from helpers import make_df, make_dls, root
from test_serve import assert_agree, assert_close, dls_of, fitted, gappy, with_kind, x_df
from torch import nn

import dropconnect_tab.fold as fold_room
from dropconnect_tab import exported
from dropconnect_tab.all import DropConnectLinear, DropConnectTabularModel, dropconnect_learner, load_predictor
from dropconnect_tab.fold import FoldedNet

onnx = pytest.mark.skipif(not (find_spec('onnxscript') and find_spec('onnxruntime')), reason="needs the extra 'onnx'")
SUFFIXES = ['.pt2', pytest.param('.onnx', marks=onnx)]


def new_rows():
    "Rows with a shop that training did not see, and one without a shop"
    df = x_df()
    df.loc[:4, 'shop'], df.loc[7, 'shop'] = 'zebra', None
    return df


def with_gaps(df):
    df = df.copy()
    df.loc[::2, 'size'] = np.nan
    return df


# --- folding --------------------------------------------------------------------------------------------------------

def labels():
    df = make_df()
    df['dear'], df['large'] = df.price < 0, df['size'] > 0
    return fitted(dls_of(df, ['dear', 'large'], y_block=MultiCategoryBlock(encoded=True, vocab=['dear', 'large'])),
                  tabular_learner)


def spread():
    "A target in thousands, a column of few values, and one with none but two"
    df = make_df().assign(price=lambda o: 5000+1000*o.price, size=lambda o: o['size'].round(), age=lambda o: o.age > 0)
    return fitted(dls_of(df.astype({'age': float})), dropconnect_learner, n_bins=9, layers=[30, 20])


NETS = {
    'one_net': lambda: fitted(make_dls(), layers=[20, 10]),
    'fastai': lambda: fitted(make_dls('band'), tabular_learner),
    'defaults': lambda: fitted(make_dls(), dropconnect_learner, layers=[30, 20], n_bins=9),
    'target_in_thousands': spread,
    'several_targets': lambda: fitted(make_dls(['price', 'cost']), dropconnect_learner, n_bins=6),
    'shared_embeddings': lambda: fitted(make_dls(), dropconnect_learner, n_bins=6, members=3, own_embeds=False),
    'classes_of_members': lambda: fitted(make_dls('band'), dropconnect_learner, n_bins=6, members=3),
    'one_logit_of_members': lambda: fitted(make_dls('cheap'), n_out=1, loss_func=BCEWithLogitsLossFlat(), members=3),
    'y_range_of_members': lambda: fitted(make_dls(), y_range=(-.2, .2), members=3),
    'labels': labels,
    'frozen': lambda: fitted(make_dls(), layers=[20, 10], mask='frozen', members=3),
    'frozen_alone': lambda: fitted(make_dls(), layers=[20, 10], mask='frozen'),
    'resampled': lambda: fitted(make_dls(), layers=[20, 10], mask='resampled', members=3),
    'resampled_alone': lambda: fitted(make_dls(), layers=[20, 10], mask='resampled'),
    'norm_before': lambda: fitted(make_dls(), layers=[20, 10], members=3, config=dict(lin_first=False)),
    'norm_before_alone': lambda: fitted(make_dls(), layers=[20, 10], config=dict(lin_first=False, ps=.1)),
    'norm_at_the_end': lambda: fitted(make_dls('band'), members=3, config=dict(bn_final=True)),
    'no_norm': lambda: fitted(make_dls(), members=3, config=dict(use_bn=False, bn_cont=False, ps=[.1])),
    'no_norm_of_embedded': lambda: fitted(make_dls(), dropconnect_learner, n_bins=6, config=dict(bn_cont=False)),
    'another_activation': lambda: fitted(make_dls(), layers=[20, 10], members=3, config=dict(act_cls=nn.GELU())),
    'no_categories': lambda: fitted(make_dls(cat=()), dropconnect_learner, n_bins=6),
    'no_categories_alone': lambda: fitted(make_dls(cat=())),
    'no_numbers': lambda: fitted(make_dls(cont=()), members=3),
    'dropout': lambda: fitted(make_dls(), members=3, config=dict(embed_p=.5, ps=.5)),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', NETS)
def test_a_folded_net_answers_as_the_net(name):
    learn = NETS[name]()
    assert type(learn.predictor().model) is FoldedNet
    assert_agree(learn, new_rows())


def test_numbers_beyond_the_bins():
    learn, df = NETS['defaults'](), x_df()
    df['size'] = np.linspace(-50, 50, 30)
    assert_agree(learn, df)
    edges = learn.model.cont_embed.low[0], learn.model.cont_embed.high[0]
    scale = learn.dls.procs.normalize
    df['size'] = np.resize([float(o)*scale.stds['size'] + scale.means['size'] for o in edges], 30)
    assert_agree(learn, df)


class Doubled(TabularModel):
    def forward(self, x_cat, x_cont): return 2*super().forward(x_cat, x_cont)


class Skip(nn.Module):
    def forward(self, x): return x + x.mean(1, keepdim=True)


def changed(change, **kwargs):
    learn = fitted(make_dls(), layers=[20, 10], **kwargs)
    change(learn.model)
    return learn


def codes():
    df = make_df().assign(kind=np.arange(400) % 3)
    return fitted(dls_of(df, cat=['kind'], procs=[Normalize]), lambda dls, layers: Learner(
        dls, TabularModel([(3, 2)], 2, 1, layers), loss_func=MSELossFlat()))


NOT_FOLDED = {
    'a_subclass': lambda: fitted(make_dls(), lambda dls, layers: Learner(
        dls, Doubled([(7, 3), (6, 3)], 2, 1, layers), loss_func=MSELossFlat())),
    'a_forward_of_its_own': lambda: changed(lambda m: setattr(m, 'forward', lambda x, y: 2*m.layers(
        torch.cat([*(e(x[:, i]) for i, e in enumerate(m.embeds)), m.bn_cont(y)], 1)))),
    'a_hook_that_watches': lambda: changed(lambda m: m.layers[0].register_forward_hook(lambda *args: None)),
    'embeddings_that_shrink': lambda: changed(lambda m: setattr(m.embeds[0], 'max_norm', 1e6)),
    'another_layer': lambda: changed(lambda m: m.layers[0].__setitem__(1, nn.PReLU())),
    'another_layer_of_members': lambda: changed(lambda m: m.layers[0].__setitem__(1, nn.PReLU()), members=3),
    'a_layer_that_mixes_units': lambda: changed(lambda m: m.layers[1].__setitem__(1, Skip())),
    'an_activation_in_front': lambda: changed(lambda m: setattr(m, 'layers', nn.Sequential(nn.Tanh(), *m.layers))),
    'norm_without_statistics': lambda: changed(lambda m: setattr(m.layers[0][2], 'running_mean', None)),
    'codes': codes,
}


@pytest.mark.slow
@pytest.mark.parametrize('name', NOT_FOLDED)
def test_what_is_not_known_is_not_folded(name):
    learn = NOT_FOLDED[name]()
    answer = learn.predictor()
    assert type(answer.model) is type(learn.model)
    if name == 'norm_without_statistics': return  # a batch then decides what a row is
    df = x_df().assign(kind=np.arange(30) % 3)
    if name == 'codes': df = df[['kind', 'size', 'age']]
    assert_close(answer(df), learn.get_preds(dl=learn.dls.test_dl(df))[0].numpy())


def test_a_code_beyond_the_embedding_is_an_error():
    with pytest.raises(IndexError): codes().predictor()(dict(kind=3, size=0., age=0.))


def test_a_large_table_is_not_folded(monkeypatch):
    learn = fitted(make_dls(), members=3)
    n = (7+6)*3*20
    monkeypatch.setattr(fold_room, 'MAX_LOOKUP', n)
    assert type(learn.predictor().model) is FoldedNet
    monkeypatch.setattr(fold_room, 'MAX_LOOKUP', n-1)
    assert type(learn.predictor().model) is DropConnectTabularModel
    assert_agree(learn, x_df())


def test_folding_leaves_the_net_as_it_was():
    learn = NETS['defaults']()
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.predictor()
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())
    assert {o.dtype for o in learn.model.parameters()} == {torch.float32}
    learn.fit(1)


# --- files ----------------------------------------------------------------------------------------------------------

def days():
    day = pd.Timestamp('2024-01-01') + pd.to_timedelta(np.arange(400) % 3, 'D')
    return with_kind(day), x_df(4).assign(kind=day[:4] + pd.to_timedelta([0, 0, 0, 9], 'D'))


FILES = ('one_net', 'defaults', 'target_in_thousands', 'several_targets', 'classes_of_members', 'one_logit_of_members',
         'labels', 'resampled', 'norm_before', 'no_categories', 'no_numbers')
CASES = {**{k: (lambda k=k: (NETS[k](), new_rows())) for k in FILES},
         'gaps': lambda: (gappy(), with_gaps(new_rows())),
         'gaps_without_flags': lambda: (gappy(add_col=False), with_gaps(new_rows())),
         'booleans': lambda: (with_kind(np.arange(400) % 3 == 1), x_df(4).assign(kind=[True, False, True, None])),
         'whole_numbers': lambda: (with_kind(np.arange(400) % 3), x_df(4).assign(kind=[0, 1, 2, 7])),
         'days': days,
         'codes': lambda: (codes(), x_df().assign(kind=np.arange(30) % 3)),
         'another_layer': lambda: (NOT_FOLDED['another_layer'](), x_df()),
         'no_procs': lambda: (fitted(dls_of(make_df(), cat=[], procs=[])), x_df())}


def assert_same(again, answer, df):
    "Two predictors give the same for tables of any length and for rows"
    assert again.x_names == answer.x_names and again.vocab == answer.vocab
    for n in (len(df), 1, 0, 3):
        got = again(df.iloc[:n])
        assert got.dtype == np.float32
        assert_close(got, answer(df.iloc[:n]))
    assert_close(again(df, bs=7), answer(df))
    row = dict(df.iloc[0])
    assert_close(again(row), answer(row))
    for rows in (df, row, df.iloc[:0]):
        if answer.vocab: assert again.predict(rows) == answer.predict(rows)
        else: assert_close(again.predict(rows), answer.predict(rows))


# How columns are encoded is the same code for both
ONNX = ('one_net', 'defaults', 'several_targets', 'classes_of_members', 'one_logit_of_members', 'labels', 'norm_before',
        'no_categories', 'no_numbers', 'gaps')


@pytest.mark.parametrize('name, suffix', [*((o, '.pt2') for o in CASES), *(pytest.param(o, '.onnx', marks=onnx) for o in ONNX)])
@pytest.mark.slow
def test_a_file_answers_as_its_predictor(name, suffix, tmp_path, capfd):
    learn, df = CASES[name]()
    answer = learn.predictor()
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        answer.export(path := tmp_path/'folder'/f'net{suffix}')
    assert capfd.readouterr() == ('', '') and not seen
    assert [o.name for o in path.parent.iterdir()] == [path.name]
    assert_same(load_predictor(path), answer, df)
    assert len(np.unique(answer(df), axis=0)) > 1


SERVE = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('fastai', 'fastcore', 'dropconnect_tab', 'rtdl_num_embeddings', *sys.argv[3:]):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from exported import load_predictor
import pandas as pd
predictor, df = load_predictor(sys.argv[1]), pd.read_json(sys.argv[2], orient='split')
json.dump([predictor(df).tolist(), predictor.predict(df), predictor(dict(df.iloc[0])).tolist()], sys.stdout)
"""


@pytest.mark.parametrize('suffix, name', [('.pt2', 'defaults'), pytest.param('.onnx', 'classes_of_members', marks=onnx)])
@pytest.mark.slow
def test_a_copy_of_one_module_is_all_that_a_server_needs(suffix, name, tmp_path):
    "A process with a file, one module, and without fastai and this package (and without torch for ONNX)"
    learn, df = CASES[name]()
    (answer := learn.predictor()).export(tmp_path/f'net{suffix}')
    shutil.copy(root/'dropconnect_tab'/'exported.py', tmp_path)
    df.to_json(tmp_path/'rows.json', orient='split')
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    command = [sys.executable, '-W', 'ignore', '-c', SERVE, f'net{suffix}', 'rows.json']
    if suffix == '.onnx': command.append('torch')
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    table, decided, one = json.loads(run.stdout)
    assert_close(table, answer(df))
    assert_close(one, answer(df)[0])
    if answer.vocab: assert decided == answer.predict(df)
    else: assert_close(decided, answer.predict(df))


@pytest.fixture(scope='module')
def answer(): return fitted(make_dls('band')).predictor()


@pytest.fixture
def path(answer, tmp_path):
    answer.export(path := tmp_path/'net.pt2')
    return path


@pytest.mark.slow
def test_errors_of_a_loaded_predictor(path):
    again = load_predictor(str(path))
    with pytest.raises(ValueError, match=r"column 'size' is missing \(there is 'sise'\)"):
        again(dict(shop='a', day='m', sise=0., age=0.))
    with pytest.raises(ValueError, match="'size' has missing values, and had none"): again(with_gaps(x_df()))
    with pytest.raises(ValueError, match='a list is not a row'): again([1])


def test_the_json_is_there_to_be_read(path):
    with zipfile.ZipFile(path) as z:
        about = json.loads(z.read(next(o for o in z.namelist() if o.endswith('dropconnect_tab.json'))))
    assert about['format'] == 2 and about['classes'] == dict(values=['high', 'low', 'mid'])
    assert about['categories'][0] == dict(name='shop', values=list('abcdef'))
    size = about['numbers'][0]
    assert size['name'] == 'size' and size['fill'] is None
    assert size['mean'] == pytest.approx(make_df()['size'][:320].mean(), abs=1e-6)


@pytest.mark.slow
def test_nothing_of_the_training_is_written(tmp_path):
    df = make_df().assign(note='do-not-tell')
    df.index = [f'keep-quiet-{i}' for i in range(len(df))]
    fitted(dls_of(df)).predictor().export(tmp_path/'net.pt2')
    with zipfile.ZipFile(tmp_path/'net.pt2') as z: written = b''.join(map(z.read, z.namelist()))
    assert b'do-not-tell' not in written and b'keep-quiet' not in written and len(written) < 200_000
    assert str(root).encode() not in written


def test_the_predictor_stays_as_it_was(answer, tmp_path):
    before = answer(x_df())
    state = {k: v.clone() for k, v in answer.model.state_dict().items()}
    answer.export(tmp_path/'net.pt2')
    assert np.array_equal(answer(x_df()), before)
    assert all(torch.equal(v, state[k]) for k, v in answer.model.state_dict().items())


@pytest.mark.slow
def test_a_predictor_that_goes_along_with_its_learner(tmp_path):
    "`copy=False` in a learner that was left in training mode"
    from dropconnect_tab.serve import Predictor
    learn = fitted(make_dls(), mask='resampled')
    live = Predictor(learn, copy=False)
    learn.model.train()
    live.export(tmp_path/'net.pt2')
    assert learn.model.training
    assert_close(load_predictor(tmp_path/'net.pt2')(x_df()), live(x_df()))


# Files that are whole, or not there

@pytest.mark.parametrize('name', ['net.pkl', 'net', 'net.onnx.zip'])
def test_other_suffixes(answer, tmp_path, name):
    for f in (answer.export, load_predictor):
        with pytest.raises(ValueError, match=f'{name} is neither .pt2 nor .onnx'): f(tmp_path/name)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize('missing', ['onnxscript', 'onnxruntime'])
def test_the_extra_is_named(answer, tmp_path, monkeypatch, missing):
    for o in ('onnxscript', 'onnxruntime'): monkeypatch.setitem(sys.modules, o, type(sys)(o))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"needs {missing}: pip install 'dropconnect_tab\[onnx\]'"):
        answer.export(tmp_path/'net.onnx')
    assert not [*tmp_path.iterdir()]


def test_onnx_runtime_is_named(tmp_path, monkeypatch):
    (tmp_path/'net.onnx').write_bytes(b'')
    exported.add_checksum(tmp_path/'net.onnx')
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ImportError, match='pip install onnxruntime'): load_predictor(tmp_path/'net.onnx')


@pytest.mark.slow
def test_a_failure_leaves_the_old_file(path, answer, monkeypatch):
    before = path.read_bytes()
    def fail(program, to, **kwargs):
        to.write(b'half')
        raise OSError("no space left")
    monkeypatch.setattr(torch.export, 'save', fail)
    with pytest.raises(OSError, match='no space left'): answer.export(path)
    assert path.read_bytes() == before and [*path.parent.iterdir()] == [path]


@pytest.mark.slow
def test_a_net_with_random_answers_is_not_written(tmp_path):
    learn = fitted(make_dls(), mask='resampled', layers=[20, 10])
    for o in learn.model.modules():
        if isinstance(o, DropConnectLinear): o.inference = 'mc'
    with pytest.raises(ValueError, match='do masks or dropout stay on at inference'): learn.predictor().export(tmp_path/'net.pt2')
    assert not [*tmp_path.iterdir()]


def test_a_net_that_cannot_be_traced(tmp_path):
    class Branches(Skip):
        def forward(self, x): return x if float(x.sum()) > 0 else -x
    learn = changed(lambda m: m.layers[1].__setitem__(1, Branches()))
    with pytest.raises(ValueError, match='torch.export cannot make a graph of the model and its loss'):
        learn.predictor().export(tmp_path/'net.pt2')
    assert not [*tmp_path.iterdir()]


def test_categories_that_json_cannot_hold(tmp_path):
    answer = with_kind(pd.cut(make_df().age, [-9, -.5, .5, 9])).predictor()
    with pytest.raises(ValueError, match="column 'kind' has values such as Interval.*convert to strings"):
        answer.export(tmp_path/'net.pt2')
    assert not [*tmp_path.iterdir()]


def test_names_that_json_cannot_hold(tmp_path):
    df = make_df().rename(columns={'size': pd.Timestamp('2024-01-01')})
    learn = fitted(dls_of(df, cont=[pd.Timestamp('2024-01-01'), 'age'], procs=[Categorify, Normalize]))
    with pytest.raises(ValueError, match="a column's name is not a string or a number"):
        learn.predictor().export(tmp_path/'net.pt2')


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_files_that_hold_no_predictor(suffix, tmp_path):
    with pytest.raises(FileNotFoundError, match='net'): load_predictor(tmp_path/f'net{suffix}')
    (tmp_path/f'net{suffix}').write_bytes(b'no such thing')
    with pytest.raises(ValueError, match=f'net{suffix} is damaged'): load_predictor(tmp_path/f'net{suffix}')


def test_a_program_of_another_kind(tmp_path):
    torch.export.save(torch.export.export(nn.Linear(2, 1), (torch.ones(3, 2),)), tmp_path/'net.pt2')
    with pytest.raises(ValueError, match='was not written by Predictor.export'): load_predictor(tmp_path/'net.pt2')


# Damaged files

@pytest.fixture(scope='module')
def files(answer, tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    with_onnx = find_spec('onnxscript') and find_spec('onnxruntime')
    for o in ('.pt2', '.onnx')[:2 if with_onnx else 1]: answer.export(folder/f'net{o}')
    return folder


def assert_refused(data, path):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f'{path.name} (is damaged|was not written by)'): load_predictor(path)


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_a_bit_that_is_another_is_noticed(files, suffix, tmp_path):
    data, rng = (files/f'net{suffix}').read_bytes(), np.random.default_rng(0)
    in_checksum = 8*len(data) - np.array([1, 8, 100, 511, 513, 600, 680])
    for bit in (*rng.choice(8*len(data), 300), *in_checksum):
        changed = bytearray(data)
        changed[bit//8] ^= 1 << bit%8
        assert_refused(changed, tmp_path/f'net{suffix}')


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_a_file_that_is_cut_is_noticed(files, suffix, tmp_path):
    data, path = (files/f'net{suffix}').read_bytes(), tmp_path/f'net{suffix}'
    ends = 0, 1, 64, len(data)//2, *(len(data)-o for o in (1, 64, 65, 87, 91, 92, 93, 94, 200))
    for o in (*(data[:o] for o in ends), data[1:], data+b'0', data+data, b'', data[:500]+data[600:]): assert_refused(o, path)


def test_a_file_in_place_of_another_kind(files, tmp_path):
    path = tmp_path/'net.onnx'
    shutil.copy(files/'net.pt2', path)
    with pytest.raises(ValueError, match='net.onnx is damaged'): load_predictor(path)


def rewritten(path, to, changes):
    "The `.pt2` file at `path` with other content in some of its members, as a zip program writes it"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, 'w') as new:
        for o in old.infolist():
            change = next((f for end, f in changes.items() if o.filename.endswith(end)), lambda data: data)
            new.writestr(o.filename, change(old.read(o)))
    return to


def with_format(files, format, to):
    "The `.pt2` file with other settings and a checksum that fits"
    def change(data): return json.dumps(json.loads(data) | dict(format=format)).encode()
    exported.add_checksum(rewritten(files/'net.pt2', to, {'dropconnect_tab.json': change}))
    return to


def test_a_format_of_another_version(files, answer, tmp_path):
    assert_same(load_predictor(with_format(files, 2, tmp_path/'same.pt2')), answer, x_df())
    for o in (1, 3, 'two', None):
        with pytest.raises(ValueError, match=f'other.pt2 is of another version .it has format={o!r}'):
            load_predictor(with_format(files, o, tmp_path/'other.pt2'))


class Touch:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)


def test_a_file_with_a_new_member_is_not_opened(files, tmp_path):
    "Pickled code in a member that PyTorch unpickles: a file that was not written by us is refused before it is opened"
    def evil(data):
        torch.save(Touch(tmp_path/'ran'), buffer := io.BytesIO())
        return buffer.getvalue()
    path = rewritten(files/'net.pt2', tmp_path/'net.pt2', {'sample_inputs/model.pt': evil})
    with pytest.raises(ValueError, match='net.pt2 is damaged, .*does not end with the checksum'): load_predictor(path)
    assert not (tmp_path/'ran').exists()


@pytest.mark.slow
@pytest.mark.parametrize('suffix', SUFFIXES)
def test_a_path_from_the_home_folder(answer, suffix, tmp_path, monkeypatch):
    for o in ('HOME', 'USERPROFILE'): monkeypatch.setenv(o, str(tmp_path/'home'))
    (tmp_path/'here').mkdir()
    monkeypatch.chdir(tmp_path/'here')
    answer.export(f'~/nets/net{suffix}')
    assert (tmp_path/'home'/'nets'/f'net{suffix}').exists() and not [*(tmp_path/'here').iterdir()]
    assert_close(load_predictor(f'~/nets/net{suffix}')(x_df()), answer(x_df()))


# The graph by itself, as a program in another language runs it

def raw(path):
    "What runs the graph of a file, without our reader"
    if path.suffix == '.pt2':
        net = torch.export.load(path).module()
        return lambda *rows: [o.detach().numpy() for o in net(*map(torch.tensor, rows))]
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda *rows: session.run(None, {k.name: v for k, v in zip(session.get_inputs(), rows)})


RAW = {'folded': lambda: fitted(make_dls(), dropconnect_learner, layers=[8], members=2, n_bins=6),
       'not_folded': lambda: fitted(make_dls(), layers=[8]),
       'with_gaps': gappy}


@pytest.mark.slow
@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize('name', RAW)
def test_a_code_that_a_column_does_not_have_is_unknown(name, suffix, tmp_path, monkeypatch):
    if name == 'not_folded': monkeypatch.setattr(fold_room, 'MAX_LOOKUP', 0)
    learn = RAW[name]()
    learn.predictor().export(path := tmp_path/f'net{suffix}')
    n = [len(learn.dls.classes[o]) for o in learn.dls.cat_names]
    inside = np.array([[3]*len(n) if len(n) == 2 else [3, 3, 1]]*(2*len(n)+3))
    outside, unknown = inside.copy(), inside.copy()
    for i in range(len(n)):
        outside[2*i, i], outside[2*i+1, i] = n[i], -1
        unknown[2*i:2*i+2, i] = 0
    outside[-1], outside[-2], unknown[-2:] = 2**40, -2**40, 0
    conts, run = np.zeros((len(inside), 2), np.float32), raw(path)
    assert np.array_equal(run(outside, conts)[0], run(unknown, conts)[0])
    assert not np.allclose(run(outside, conts)[0][:-3], run(inside, conts)[0][:-3])


@pytest.mark.slow
@pytest.mark.parametrize('suffix', SUFFIXES)
def test_a_code_of_a_column_of_codes_is_not_made_up(suffix, tmp_path):
    "Without `Categorify` nobody knows which codes there are: those without an embedding are errors"
    codes().predictor().export(path := tmp_path/f'net{suffix}')
    for code in (3, -1):
        with pytest.raises(Exception, match='(?i)index|indices'): load_predictor(path)(dict(kind=code, size=0., age=0.))
