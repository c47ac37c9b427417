"""What might be done with dropped weights in training, as callbacks: none of it is in the library.

`benchmarks/inputs.py` fits the learner with each of them, in its study 'beyond'.
"""
from fastai.callback.core import Callback


class Dropped(Callback):
    "The hidden layers' weights, each with the places that its mask dropped"
    run_valid = False

    def weights(self):
        masks = self.learn.model.weight_masks
        return [(masks.linears[n].weight.data, ~keep) for n, keep in masks.keeps.items()]


class SlowDropped(Dropped):
    "Dropped weights go a tenth of each step"
    def before_step(self): self.before = [w.clone() for w, _ in self.weights()]

    def after_step(self):
        for old, (w, dropped) in zip(self.before, self.weights()): w.sub_(.9*(w-old)*dropped)


class DecayDropped(Dropped):
    "A weight decay of 1 on dropped weights alone (fastai's default for all is 0.01)"
    def after_step(self):
        for w, dropped in self.weights(): w.sub_(self.opt.hypers[-1]['lr']*w*dropped)


class Halfway(Dropped):
    "Does something once, when half of the epochs are over"
    def before_epoch(self):
        if self.epoch == self.n_epoch//2: self.drop()


class DropAgain(Halfway):
    "The dropped weights are 0 again"
    def drop(self): self.learn.model.weight_masks.restore_zeros()


class DropSmall(Halfway):
    "The smaller half of all weights of a layer becomes 0: dense-sparse-dense training (Han et al., ICLR 2017)"
    def drop(self):
        for w, _ in self.weights(): w.mul_(w.abs() > w.abs().median())


class AverageWeights(Callback):
    "The net gets the mean of its weights over the last quarter of the steps (Izmailov et al., UAI 2018)"
    run_valid = False  # torch's `AveragedModel` cannot average the masks among the buffers of embeddings of numbers

    def before_fit(self): self.n_averaged, self.means = 0, {}

    def after_batch(self):
        if self.learn.pct_train < .75: return
        self.n_averaged += 1
        for k, v in self.learn.model.state_dict().items():
            if not v.is_floating_point(): continue
            self.means[k] = v.clone() if self.n_averaged == 1 else self.means[k].lerp_(v, 1/self.n_averaged)

    def after_fit(self): self.learn.model.load_state_dict(self.means, strict=False)
