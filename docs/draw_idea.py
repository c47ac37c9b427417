"Draws docs/images/idea.png, the picture of the README: `python docs/draw_idea.py`"
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from dropconnect_tab.masks import draw_mask

sizes = 5, 6, 4, 1
gen = torch.Generator().manual_seed(4)
keeps = [draw_mask((n_out, n_in), 0.5, gen) for n_in, n_out in zip(sizes, sizes[1:-1])]
kept, regrown = 'tab:blue', 'tab:orange'


def height(i, n): return (n-1)/2 - i


def draw(ax, title, dropped):
    "One network; `dropped` is how a dropped weight is drawn, as (colour, width), or None"
    for l, (n_in, n_out) in enumerate(zip(sizes, sizes[1:])):
        for o in range(n_out):
            for i in range(n_in):
                style = (kept, 1.3) if l == len(keeps) or keeps[l][o, i] else dropped
                if style: ax.plot([l, l+1], [height(i, n_in), height(o, n_out)], color=style[0], lw=style[1], zorder=1)
    for l, n in enumerate(sizes):
        ax.scatter([l]*n, [height(i, n) for i in range(n)], s=90, color='white', edgecolor='black', zorder=2)
    ax.set_title(title, fontsize=11)
    ax.axis('off')


fig, axs = plt.subplots(1, 4, figsize=(11, 2.9), layout='constrained')
draw(axs[0], "dense network", (kept, 1.3))
draw(axs[1], "before training:\nhalf of the hidden weights are 0", None)
draw(axs[2], "mask='trainable'\nthey may grow back", (regrown, .6))
draw(axs[3], "mask='frozen'\nthey stay exactly 0", None)
path = Path(__file__).parent/'images'/'idea.png'
path.parent.mkdir(exist_ok=True)
fig.savefig(path, dpi=130)
