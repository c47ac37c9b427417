"The members of several models in one: exact, or refused by name."
import copy

import pytest
import torch
from helpers import make_df, make_dls
from torch import nn

from dropconnect_tab.all import (DropConnectTabularModel, TabTensorDL, dropconnect_config, dropconnect_learner,
                                 merge_members)
from dropconnect_tab.embeddings import bin_edges
from dropconnect_tab.members import no_average

EMB_SZS = [(7, 3), (6, 2)]
CAT, CONT = torch.randint(6, (64, 2)), torch.randn(64, 3)
PLAIN = dict(own_embeds=True, bn_cont=False)
KINDS = {'trainable': {}, 'frozen': dict(mask='frozen'), 'resampled': dict(mask='resampled'), 'dense': dict(weight_p=0),
         'feature': dict(mask='frozen', unit='feature'), 'sigmoid': dict(average='sigmoid', out_sz=2),
         'softmax': dict(average='softmax', out_sz=3), 'no batch norm': dict(use_bn=False),
         'last': dict(lin_first=False),
         'scaled': dict(y_scale=(100, 5)), 'range': dict(y_range=(-1, 1)), 'final': dict(bn_final=True),
         'activation': dict(act_cls=nn.PReLU()),
         'numbers': dict(cont_edges=bin_edges(CONT, 4), cont_emb_sz=3),
         'oob': dict(oob=.5, cont_edges=bin_edges(CONT, 4), cont_emb_sz=3, own_embeds=None)}


def trained(members, seed, **kwargs):
    "A net after ten steps, with batch statistics of its own"
    torch.manual_seed(seed)
    settings = dict(n_cont=3, out_sz=1, layers=[12, 8], emb_szs=EMB_SZS) | PLAIN | kwargs
    net = DropConnectTabularModel(members=members, seed=None if kwargs.get('mask') == 'resampled' else seed, **settings)
    opt = torch.optim.SGD(net.parameters(), .1)
    with no_average(net):
        for _ in range(10):
            net(CAT, CONT + .1*torch.randn(64, 3)).square().mean().backward()
            opt.step()
            opt.zero_grad()
            if net.weight_masks.mask == 'frozen': net.weight_masks.restore_zeros()
    return net.eval()


@pytest.mark.parametrize('kind', KINDS)
def test_members_of_the_parts_in_their_order(kind):
    parts = [trained(k, i, **KINDS[kind]) for i, k in enumerate((3, 2, 4))]
    before = copy.deepcopy(parts[1].state_dict())
    net = merge_members(parts)
    assert net.members == 9 and net.leave_out is None and not net.training
    with no_average(net): outputs = net(CAT, CONT)
    singles = []
    for o in parts:
        with no_average(o): singles.append(o(CAT, CONT))
    torch.testing.assert_close(outputs, torch.cat(singles, 1))
    torch.testing.assert_close(net.member(7)(CAT, CONT), parts[2].member(2)(CAT, CONT))
    with torch.no_grad():
        for p in net.parameters(): p.zero_()  # copies
    for k, v in parts[1].state_dict().items(): assert torch.equal(v, before[k])


@pytest.mark.parametrize('kind', ['trainable', 'softmax', 'oob'])
def test_predictions_are_the_average_of_the_parts(kind):
    parts = [trained(3, i, **KINDS[kind]) for i in range(3)]
    def probs(o): return o(CAT, CONT).softmax(-1) if kind == 'softmax' else o(CAT, CONT)
    torch.testing.assert_close(probs(merge_members(parts)), sum(map(probs, parts))/3)


def test_a_net_of_that_many_members_takes_its_checkpoint():
    net, other = merge_members([trained(2, i, mask='frozen') for i in range(3)]), trained(6, 9, mask='frozen')
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(CAT, CONT), net(CAT, CONT))
    for k, v in net.weight_masks.keeps.items(): assert torch.equal(v, other.weight_masks.keeps[k])


def test_frozen_members_stay_frozen_when_they_are_trained_on():
    net = merge_members([trained(2, i, mask='frozen') for i in range(2)]).train()
    zeros, opt = {k: ~v for k, v in net.weight_masks.keeps.items()}, torch.optim.Adam(net.parameters())
    with no_average(net):
        for _ in range(3):
            net(CAT, CONT).square().mean().backward()
            opt.step()
    net.eval()
    for k, v in zeros.items(): assert v.float().mean() > .3 and not net.get_submodule(k).weight[v].any()


@pytest.mark.slow
def test_learners_of_several_workers(tmp_path):
    def worker(seed):
        torch.manual_seed(seed)
        dls = make_dls(dl_type=TabTensorDL, path=tmp_path)
        learn = dropconnect_learner(dls, members=3, seed=seed, own_embeds=True, layers=[20],
                                    config=dropconnect_config(bn_cont=False))
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        return learn
    learners = [worker(i) for i in range(2)]
    preds = [o.get_preds()[0] for o in learners]
    learn, df = learners[0], make_df(30, 5)
    learn.model = merge_members(learners)
    torch.testing.assert_close(learn.get_preds()[0], sum(preds)/2)
    assert learn.member_preds().shape[1] == 6
    answer = torch.as_tensor(learn.predictor()(df))
    torch.testing.assert_close(answer, learn.get_preds(dl=learn.dls.test_dl(df))[0], atol=1e-4, rtol=1e-4)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)  # the members learn on
    assert not torch.equal(learn.get_preds()[0], sum(preds)/2)


EDGES = bin_edges(CONT, 4)


@pytest.mark.parametrize('kwargs, error', [
    (dict(own_embeds=False), "'embeds.0.weight' is shared .*, and differs in part 1: train each with own_embeds=True"),
    (dict(cont_edges=EDGES, own_embeds=False, emb_szs=[]),
     "'cont_embed.embed.linear.weight' is shared .*: train each with own_embeds=True"),
    (dict(bn_cont=True), "'bn_cont.running_mean' is shared .*: train each with bn_cont=False")], ids=lambda o: str(o)[:20])
def test_what_is_shared_is_refused(kwargs, error):
    with pytest.raises(ValueError, match=error): merge_members([trained(2, i, **kwargs) for i in range(2)])
    one = trained(2, 0, **kwargs)
    merge_members([one, copy.deepcopy(one)])  # where it is the same, nothing is lost


@pytest.mark.parametrize('one, other, error', [
    (dict(y_scale=(1, 2)), dict(y_scale=(1, 3)), "'y_scale.std' is shared .*: train each with the same y_scale"),
    (dict(y_scale=(1, 2)), {}, "'y_scale.mean' is shared"), ({}, dict(y_scale=(1, 2)), "'y_scale.mean' is shared"),
    ({}, dict(layers=[12, 9]), "part 1 has layers=\\[12, 9, 1\\], and part 0 has \\[12, 8, 1\\]: train them alike"),
    ({}, dict(mask='frozen'), "part 1 has mask=frozen, and part 0 has trainable"),
    (dict(mask='frozen'), dict(mask='frozen', weight_p=.7), "part 1 has weight_p="),
    ({}, dict(emb_szs=[(7, 3), (6, 4)]), "part 1 has emb_szs="),
    ({}, dict(own_embeds=False), "part 1 has own_embeds=False, and part 0 has True"),
    (dict(y_range=(0, 1)), dict(y_range=(0, 2)), "part 1 has others=.*SigmoidRange\\(0, 2\\)"),
    ({}, dict(use_bn=False), "part 1 has norms=0, and part 0 has 2"),
    ({}, dict(act_cls=nn.GELU()), "part 1 has others=.*GELU"),
    ({}, dict(average='sigmoid'), "part 1 has average=sigmoid, and part 0 has mean")], ids=lambda o: str(o)[:30])
def test_other_settings_are_refused(one, other, error):
    with pytest.raises(ValueError, match=error): merge_members([trained(2, 0, **one), trained(2, 1, **other)])


def test_temperatures_that_differ_are_refused():
    parts = [trained(2, i) for i in range(2)]
    parts[1].temperature = torch.tensor(2.)
    with pytest.raises(ValueError, match="'temperature' is shared .*: merge them before they are calibrated"):
        merge_members(parts)


def test_what_is_no_net_with_members():
    with pytest.raises(ValueError, match="part 1 is a Linear: give learners with a DropConnectTabularModel"):
        merge_members([trained(2, 0), nn.Linear(2, 2)])
    with pytest.raises(ValueError, match="part 0 has no members: train it with members=2, or more"):
        merge_members([DropConnectTabularModel(EMB_SZS, 3, 1, [12])])
    with pytest.raises(ValueError, match="parts is empty"): merge_members([])


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_nets_of_another_type(dtype):
    nets = [trained(2, i).to(dtype) for i in range(2)]
    merged = merge_members(nets)
    assert {o.dtype for o in merged.state_dict().values() if o.is_floating_point()} == {dtype}
    assert merged(CAT, CONT.to(dtype)).dtype == dtype
