"Masks as pure functions, and `WeightMasks` on plain PyTorch models."
import copy
import pickle

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from dropconnect_tab.layers import read_mask
from dropconnect_tab.masks import WeightMasks, draw_mask, find_linears

sizes, ps = st.integers(1, 40), st.floats(0, 1, exclude_max=True)


def gen(seed=0): return torch.Generator().manual_seed(seed)


def mlp(): return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 1))


@given(sizes, sizes, ps, st.integers(0, 2**31))
def test_count_is_exact_and_nobody_is_dead(n_out, n_in, weight_p, seed):
    n, n_drop = n_out*n_in, round(weight_p*n_out*n_in)
    assume(n_drop < n)
    keep = draw_mask((n_out, n_in), weight_p, gen(seed))
    assert keep.dtype == torch.bool and keep.shape == (n_out, n_in) and keep.device.type == 'cpu'
    assert int((~keep).sum()) == n_drop
    of_units = keep.sum(1)
    assert int(of_units.max()-of_units.min()) <= 1
    assert int(keep.any(1).sum()) == min(n_out, n-n_drop)
    assert int(keep.any(0).sum()) == min(n_in, n-n_drop)


@given(sizes, st.lists(st.integers(1, 6), min_size=1, max_size=8), ps, st.integers(0, 2**31))
def test_groups_drop_together(n_out, groups, weight_p, seed):
    n = n_out*len(groups)
    assume(round(weight_p*n) < n)
    keep = draw_mask((n_out, sum(groups)), weight_p, gen(seed), groups)
    by_group = [g for g in keep.split(groups, 1)]
    assert all(bool((g.all(1) == g.any(1)).all()) for g in by_group)
    assert sum(int((~g[:, 0]).sum()) for g in by_group) == round(weight_p*n)


def test_masks_are_uniform():
    "Every weight is dropped as often as every other: 4000 draws, 6 standard errors"
    n, p = 4000, 0.5
    g = gen()
    freq = sum((~draw_mask((8, 6), p, g)).float() for _ in range(n))/n
    assert (freq - p).abs().max() < 6*(p*(1-p)/n)**.5


def test_generator_decides():
    assert torch.equal(draw_mask((9, 9), .5, gen(1)), draw_mask((9, 9), .5, gen(1)))
    assert not torch.equal(draw_mask((9, 9), .5, gen(1)), draw_mask((9, 9), .5, gen(2)))
    torch.manual_seed(3)
    a = draw_mask((9, 9), .5)
    torch.manual_seed(3)
    assert torch.equal(a, draw_mask((9, 9), .5))


def test_groups_must_fit():
    with pytest.raises(ValueError, match=r"groups=\[2, 3\] sum to 5, but the weight has 6 inputs"):
        draw_mask((4, 6), .5, groups=[2, 3])


@pytest.mark.parametrize('weight_p', [-0.1, 1.0, 'half', float('nan'), True])
def test_weight_p_out_of_range(weight_p):
    match = f"weight_p={weight_p!r} is not the fraction of weights to drop: give a number of at least 0 and below 1"
    with pytest.raises(ValueError, match=match): draw_mask((4, 4), weight_p)
    with pytest.raises(ValueError, match=match): WeightMasks(mlp(), weight_p)


def test_a_layer_must_keep_something():
    with pytest.raises(ValueError, match="weight_p=0.99 drops all 12 weights of a 3x4 layer: give a smaller one"):
        draw_mask((3, 4), 0.99)


def test_read_mask():
    w = torch.randn(200, 100)
    assert read_mask('w', w, 10_000) is None
    w[0] = 0  # no more than chance could make
    assert read_mask('w', w, 10_000) is None and torch.equal(read_mask('w', w, 100), w != 0)
    w[:4] = 0
    with pytest.raises(ValueError, match="'w' was masked before: 2% of its weights are exactly 0, but weight_p=0.5"):
        read_mask('w', w, 10_000)
    w[:100] = 0
    for n in (8_400, 10_000, 11_600): assert torch.equal(read_mask('w', w, n), w != 0)
    for n in (0, 8_000, 12_600, 19_000):
        with pytest.raises(ValueError, match="50% of its weights are exactly 0"): read_mask('w', w, n)
    with pytest.raises(ValueError, match="100% of its weights are exactly 0"): read_mask('w', torch.zeros(4, 4), 15)


def test_read_mask_of_groups():
    "A group counts as dropped where all of it is 0, whatever its width"
    groups, keep = [6, 1, 1], torch.tensor([[False]*6 + [True]*2, [True]*6 + [False, True], [True]*7 + [False]])
    w = torch.randn(3, 8)*keep
    assert torch.equal(read_mask('w', w, 3, groups), keep)
    w[1, 0] = 0  # a part of a group
    assert torch.equal(read_mask('w', w, 3, groups), keep)


@pytest.mark.parametrize('kwargs, zeros', [
    (dict(), [200, 180, 0]),  # two inputs per neuron
    (dict(weight_p=0.5), [120, 100, 0]),
    (dict(weight_p=0.8), [192, 160, 0]),
    (dict(weight_p=[0.8, 0.1]), [192, 20, 0]),
    (dict(weight_p=[0.8, 0]), [192, 0, 0]),
    (dict(weight_p={'0': 0.8}), [192, 0, 0]),
    (dict(weight_p={'4': 0.5, '2': 0.2}), [0, 40, 5]),
    (dict(layers='2'), [0, 180, 0]),
    (dict(layers=['0', '4'], weight_p=.5), [120, 0, 5]),
    (dict(layers=lambda n, m: m.in_features == 10), [0, 0, 8]),
    (dict(layers=lambda n, m: True, weight_p=.1), [24, 20, 1]),
])
def test_which_layers_and_how_much(kwargs, zeros):
    model = mlp()
    masks = WeightMasks(model, **kwargs).apply()
    assert [int((l.weight == 0).sum()) for l in find_linears(model).values()] == zeros
    masked = [z for z, n in zip(zeros, find_linears(model)) if n in masks.linears]
    assert [r['zeros'] for r in masks.report()] == masked


@pytest.mark.parametrize('kwargs, match', [
    (dict(layers='head'), "no nn.Linear is called 'head'; this model has '0', '2', '4'"),
    (dict(layers=lambda n, m: False), "matches no nn.Linear; this model has '0', '2', '4'"),
    (dict(layers=[]), r"layers=\[\] matches no nn.Linear"),
    (dict(weight_p=[.5, .5, .5]), r"3 values for the 2 layers \['0', '2'\]: give one each"),
    (dict(weight_p={'9': .5}), "no nn.Linear is called '9'"),
    (dict(weight_p={'0': .5}, layers=['0', '2']), r"has no entry for \['2'\]: add them"),
    (dict(weight_p={'4': .5}, layers=['0']), "'4' is not one of the masked layers '0'"),
    (dict(weight_p=[.5, 2]), "weight_p=2 is not the fraction"),
    (dict(unit='neuron'), "unit='neuron' is unknown: choose one of 'weight', 'feature'"),
    (dict(unit='feature'), "a Sequential does not say how wide its columns are; set model.column_groups"),
    (dict(seed='x'), "seed='x': give a whole number, or None"),
    (dict(seed=2.5), "seed=2.5: give a whole number, or None"),
])
def test_bad_settings(kwargs, match):
    with pytest.raises(ValueError, match=match): WeightMasks(mlp(), **kwargs)


def test_models_without_a_layer_to_mask():
    with pytest.raises(ValueError, match="no nn.Linear with a weight of its own"): WeightMasks(nn.ReLU())
    with pytest.raises(ValueError, match="the only nn.Linear, '0', is the output layer"):
        WeightMasks(nn.Sequential(nn.Linear(3, 1)))
    assert WeightMasks(nn.Sequential(nn.Linear(3, 1)), 0).linears == {}  # nothing is dropped, so nothing is missing


def test_untrainable_layers_are_skipped():
    model = mlp()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    assert list(WeightMasks(model).apply().linears) == ['2']
    assert torch.equal(before, model[0].weight)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="'0', '2' do not require gradients: unfreeze a layer"): WeightMasks(model)


def test_computed_weights_are_no_layers_to_mask():
    model = mlp()
    torch.nn.utils.parametrizations.weight_norm(model[0])
    assert list(find_linears(model)) == ['2', '4']


def test_one_seed_one_mask():
    a, b, c = (WeightMasks(mlp(), seed=s).draw() for s in (5, 5, 6))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not torch.equal(a['0'], c['0'])
    model, rng = mlp(), torch.get_rng_state()
    WeightMasks(model, seed=5).apply()
    assert torch.equal(rng, torch.get_rng_state())


def test_no_seed_is_governed_by_the_global_one():
    model = mlp()
    def draw(seed):
        torch.manual_seed(seed)
        return WeightMasks(model).keeps['0']
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    torch.manual_seed(1)
    assert not torch.equal(WeightMasks(model).keeps['0'], WeightMasks(model).keeps['0'])


def test_unit_feature():
    model = mlp()
    model.column_groups = [4, 3, 3, 1, 1]
    masks = WeightMasks(model, .5, unit='feature', seed=0).apply()
    first, second = masks.keeps['0'], masks.keeps['2']
    assert all(bool((g.all(1) == g.any(1)).all()) for g in first.split(model.column_groups, 1))
    assert int((~second).sum()) == 100  # deeper layers have no table columns
    match = r"no masked layer takes the 5 columns \(12 inputs wide\); masked are \['2'\]"
    for kwargs in (dict(layers='2'), dict(weight_p={'0': 0, '2': .5})):
        with pytest.raises(ValueError, match=match): WeightMasks(model, unit='feature', **kwargs)


def kept_columns(masks, name, widths):
    "How many table columns each neuron of a layer keeps"
    return torch.stack([k.any(1) for k in masks.keeps[name].split(widths, 1)]).sum(0)


@pytest.mark.parametrize('widths', [[4, 3, 3, 1, 1], [2]*6, [1]*12])
def test_a_unit_starts_with_four_columns_and_later_with_two_units(widths):
    model = mlp()
    model.column_groups = widths
    masks = WeightMasks(model, seed=0)
    assert masks.unit == 'feature' and masks.weight_p == {'0': 1-4/len(widths), '2': 1-2/20}
    assert (kept_columns(masks, '0', widths) == 4).all() and (masks.keeps['2'].sum(1) == 2).all()


@pytest.mark.parametrize('widths', [[9, 1, 1, 1], [11, 1], [12]])
def test_four_columns_are_all_kept(widths):
    model = mlp()
    model.column_groups = widths
    masks = WeightMasks(model, seed=0).apply()
    assert masks.unit == 'weight' and masks.weight_p == {'0': 0, '2': 1-2/20} and list(masks.linears) == ['2']
    assert [r['zeros'] for r in masks.report()] == [180]
    assert WeightMasks(model, unit='feature').weight_p == masks.weight_p
    with pytest.raises(ValueError, match="no masked layer takes the"): WeightMasks(model, layers='2', unit='feature')


def test_columns_are_not_asked_for_where_something_else_is_said():
    model = mlp()
    model.column_groups = [4, 3, 3, 1, 1]
    assert WeightMasks(model, layers='2').weight_p == {'2': 1-2/20}  # the table does not enter there
    assert WeightMasks(model, unit='weight').weight_p['0'] == 1-2/12
    assert WeightMasks(model, unit='feature').weight_p['0'] == 1-4/5
    assert WeightMasks(model, .5).unit == 'weight' and WeightMasks(model, .5).groups == {}


@pytest.mark.parametrize('weight_p', [0.2, 0.5, 0.9])
def test_rescale_keeps_the_variance(weight_p):
    lin = nn.Linear(500, 500, bias=False)
    x = torch.randn(2000, 500)
    dense = lin(x).var()
    scaled, raw = copy.deepcopy(lin), copy.deepcopy(lin)
    WeightMasks(scaled, weight_p, layers='', seed=0).apply()
    WeightMasks(raw, weight_p, layers='', seed=0, rescale=False).apply()
    assert torch.isclose(scaled(x).var(), dense, rtol=0.03)
    assert torch.isclose(raw(x).var(), dense*(1-weight_p), rtol=0.03)
    assert torch.equal(scaled.weight == 0, raw.weight == 0)


def test_accidental_zeros_do_not_join_the_mask():
    model = mlp()
    with torch.no_grad(): model[0].weight.zero_()
    masks = WeightMasks(model, seed=0).apply()
    assert torch.equal(model[0].weight != 0, masks.keeps['0'])


def test_started_and_read():
    model = mlp()
    assert not WeightMasks(model).started()
    with pytest.raises(ValueError, match="'0', '2' has no exact zeros, or too few for a mask. Load a checkpoint"):
        WeightMasks(model).read()
    masks = WeightMasks(model, .5, seed=1).apply()
    again = WeightMasks(model, .5, seed=2)
    assert again.started()
    assert torch.equal(again.read().keeps['0'], masks.keeps['0'])
    with pytest.raises(ValueError, match="50% of its weights are exactly 0, but weight_p=0.8"):
        WeightMasks(model, 0.8).started()


def test_any_loop_holds_the_zeros():
    model = mlp()
    opt = torch.optim.Adam(model.parameters(), 0.1, weight_decay=0.1)
    def step(masks=None):
        model(torch.randn(32, 12)).square().mean().backward()
        if masks: masks.mask_grads()
        grads = [l.weight.grad.clone() for l in find_linears(model).values()]
        opt.step()
        if masks: masks.restore_zeros()
        opt.zero_grad()
        return grads
    step()  # momentum from before the mask
    masks = WeightMasks(model, seed=0).apply()
    for _ in range(3):
        grads = step(masks)
        assert all(not g[~k].any() for g, k in zip(grads, masks.keeps.values()))
        assert all(torch.equal(masks.linears[n].weight.view(torch.int32)[~k],
                               torch.zeros(int((~k).sum()), dtype=torch.int32))
                   for n, k in masks.keeps.items())  # bit for bit +0.0


@pytest.mark.parametrize('seed', [3, None])
def test_copies_are_small_and_equal(seed):
    masks = WeightMasks(mlp(), seed=seed).apply()
    for other in (copy.deepcopy(masks), pickle.loads(pickle.dumps(masks))):
        assert all(torch.equal(other.keeps[n], masks.keeps[n]) for n in masks.keeps)
        assert other.linears['0'] is not masks.linears['0']
    big = WeightMasks(nn.Sequential(nn.Linear(1000, 1000), nn.Linear(1000, 1)), seed=0).apply()
    assert len(pickle.dumps(big)) - len(pickle.dumps(big.linears)) < 10_000  # no mask in it: the seed draws it again


def test_masks_that_are_there_already():
    net = mlp()
    assert not WeightMasks(net, .5).started()
    WeightMasks(net, .5).apply()
    assert WeightMasks(net, .5).started() and WeightMasks(net, .55).started()
    for p in (.2, .8):
        with pytest.raises(ValueError, match="'0' was masked before: 50% of its weights are exactly 0"):
            WeightMasks(net, p).started()
    nn.init.ones_(net[2].weight)
    with pytest.raises(ValueError, match="'0' was masked before, and '2' was not"): WeightMasks(net, .5).started()


def test_columns_enter_the_layer_that_is_as_wide_as_they_are():
    net = nn.Sequential(nn.Linear(5, 13), nn.ReLU(), nn.Linear(13, 4), nn.ReLU(), nn.Linear(4, 1))
    net.column_groups = [6, 7]
    assert WeightMasks(net, .5, unit='feature').groups == {'2': [6, 7]}


def test_a_mask_of_nothing_has_its_layers():
    assert WeightMasks(mlp(), 0.).weight_p == {'0': 0, '2': 0}
    assert WeightMasks(nn.Sequential(nn.Linear(2, 1)), 0.).weight_p == {}


def test_a_mask_too_small_to_drop_a_weight_is_read_from_no_zeros():
    net = mlp()
    assert all(k.all() for k in WeightMasks(net, .001).read().keeps.values())
    with pytest.raises(ValueError, match="no frozen mask to resume with: '0', '2' has no exact zeros"):
        WeightMasks(net, .1).read()


def test_masks_start_once():
    model = mlp()
    masks = WeightMasks(model, .5, seed=0).apply()
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match='in force already: go on with `begin`'): masks.apply()
    assert torch.equal(masks.begin() and model[0].weight, before)


def test_a_loop_that_holds_zeros_takes_every_kind():
    model = mlp()
    masks = WeightMasks(model, .5, mask='resampled').apply()
    model(torch.randn(8, 12)).sum().backward()
    before = [p.clone() for p in model.parameters()]
    masks.mask_grads()
    masks.restore_zeros()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters())) and (model[0].weight.grad != 0).any()
