"Draws the other pictures of docs/idea.md with the package itself: `python docs/draw_pictures.py`"
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap

from dropconnect_tab.masks import draw_mask
from dropconnect_tab.model import DropConnectTabularModel

images = Path(__file__).parent/'images'
columns = {'shop': 4, 'day': 3, 'make': 3, 'size': 1, 'age': 1, 'km': 1}  # three categorical columns, three continuous
emb_szs, n_cont = [(10, 4), (8, 3), (9, 3)], 3


def make_model(layers=(12, 6), seed=3, **kwargs):
    torch.manual_seed(1)
    return DropConnectTabularModel(emb_szs, n_cont, 1, list(layers),
                                   **({} if kwargs.get('mask') == 'resampled' else {'seed': seed}), **kwargs)


def draw_views():
    "Which inputs each neuron of the first hidden layer sees"
    kinds = {"dense network": dict(weight_p=0), "weight_p=0.8": dict(weight_p=.8),
             "weight_p=0.8, unit='feature'": dict(weight_p=.8, unit='feature')}
    fig, axs = plt.subplots(1, 3, figsize=(11, 3.6), layout='constrained')
    ends = torch.tensor(list(columns.values())).cumsum(0)
    for ax, (title, kwargs) in zip(axs, kinds.items()):
        keep = make_model(**kwargs).layers[0][0].weight.detach() != 0
        ax.pcolormesh(keep, cmap=ListedColormap(['white', 'tab:blue']), vmin=0, vmax=1, edgecolors='.85', linewidth=.5)
        for x in ends[:-1]: ax.axvline(x, color='tab:orange', lw=2)
        ax.set_xticks(ends-torch.tensor(list(columns.values()))/2, columns, fontsize=8)
        ax.set(title=title, yticks=[.5, 11.5], yticklabels=[])
        ax.tick_params(length=0)
        ax.invert_yaxis()
    axs[0].set_ylabel("neurons of the first hidden layer")
    fig.savefig(images/'views.png', dpi=130)


def used_weights(mask, steps=30, rows=24):
    "Weights of the first layer as each training step uses them, from an untrained model on, and at inference"
    model = make_model((8, 4), mask=mask, weight_p=.5)
    opt, layer, used = torch.optim.Adam(model.parameters(), .02), model.layers[0][0], []
    cat = torch.stack([torch.randint(n, (256,)) for n, _ in emb_szs], 1)
    cont = torch.randn(256, n_cont)
    y = cont.sum(1, keepdim=True) + (cat[:, :1] < 4)
    eye = torch.eye(layer.in_features)
    for _ in range(steps):
        with torch.random.fork_rng(), torch.no_grad(): used.append(layer(eye).T)  # the step draws the same mask again
        loss = (model(cat, cont)-y).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad(): used.append(model.eval().layers[0][0](eye).T)
    return torch.stack(used, -1).flatten(0, 1)[:rows]


def draw_training():
    "Which weights are zero at which training step"
    fig, axs = plt.subplots(1, 3, figsize=(11, 3.6), layout='constrained', sharey=True)
    titles = {'trainable': "dropped once, then trained", 'frozen': "dropped once, and held",
              'resampled': "others at each step, none at inference"}
    for ax, (mask, title) in zip(axs, titles.items()):
        w = used_weights(mask)
        size = w.abs()/w.abs().max()
        shown = ax.pcolormesh(torch.where(w == 0, torch.nan, size**.5), cmap='Blues', vmin=-.15, vmax=1)
        shown.cmap.set_bad('tab:orange')
        ax.axvline(w.shape[1]-1, color='black', lw=2)
        ax.set(title=f"mask='{mask}'\n{title}", xlabel='training step', xticks=[.5, 10.5, 20.5, 30.5],
               xticklabels=['1', '11', '21', 'inference'], yticks=[])
        ax.get_xticklabels()[-1].set_ha('right')
    axs[0].set_ylabel("24 weights of the first layer\n(orange: zero)")
    fig.savefig(images/'training.png', dpi=130)


def draw_members():
    "Networks over the same inputs, each with its own mask, and their average"
    n_in, n_out, k, gap = 5, 4, 3, 1.2
    keeps = draw_mask((k, n_out, n_in), .6, torch.Generator().manual_seed(5))
    fig, ax = plt.subplots(figsize=(8, 4.2), layout='constrained')
    colours = ['tab:blue', 'tab:orange', 'tab:green']
    xs = [(0, i*1.6 + 2.8) for i in range(n_in)]
    average = (5.4, 6)  # at the height of the middle member
    for m in range(k):
        units = [(2, m*(n_out+gap) + u - .7) for u in range(n_out)]
        output = (3.7, sum(y for _, y in units)/n_out)
        for u, unit in enumerate(units):
            for i, x in enumerate(xs):
                if keeps[m, u, i]: ax.plot(*zip(x, unit), color=colours[m], lw=1.2, zorder=1)
            ax.plot(*zip(unit, output), color=colours[m], lw=1.2, zorder=1)
        ax.plot(*zip(output, average), color='black', lw=1, ls='--', zorder=1)
        ax.scatter(*zip(*units, output), s=110, color='white', edgecolor=colours[m], lw=1.5, zorder=2)
        ax.text(output[0]+.1, output[1]+(.5 if m else -.5), f'member {m}', color=colours[m], ha='center',
                va='bottom' if m else 'top', fontsize=10)
    ax.scatter(*zip(*xs, average), s=110, color='white', edgecolor='black', lw=1.5, zorder=2)
    ax.text(0, 1.8, "the same columns\nand embeddings", ha='center', va='top', fontsize=10)
    ax.text(2, -1.5, "each with its own\nweights and mask", ha='center', va='top', fontsize=10)
    ax.text(average[0]+.2, average[1], "their average", va='center', fontsize=10)
    ax.set(xlim=(-.8, 6.6), ylim=(-3, 13.5))
    ax.axis('off')
    fig.savefig(images/'members.png', dpi=130)


images.mkdir(exist_ok=True)
draw_views()
draw_training()
draw_members()
