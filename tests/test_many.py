"What runs on many datasets say, from made-up runs whose answer is known"
import json

import numpy as np
import pandas as pd
import pytest

from dropconnect_tab.bench.many import (_level, count_wins, error_and_time, format_datasets, format_many, format_pairs,
                                        over_best, plot_error_time, plot_ranks, rank_many, ratio_interval, read_many, report_many)


def made_up(errors, seeds=2, noise=0., task='regression', **changed):
    "Runs of the methods of `errors`, method → error on each dataset"
    rng = np.random.default_rng(0)
    return pd.DataFrame([
        dict(dict(dataset=f'd{i}', method=m, seed=s, task=task, error=e*np.exp(noise*rng.normal()), seconds=1., threads=1,
                  n_test=1000, accuracy=np.nan, auc=np.nan), **changed)
        for m, errs in errors.items() for i, e in enumerate(errs) if e is not None for s in range(seeds)])


def write(out, runs):
    "Files as `run_methods` leaves them"
    for name, some in runs.groupby('dataset'):
        folder = out/f'{name}-random'
        folder.mkdir(parents=True)
        lines = [dict(arm=o.method, seed=int(o.seed), dataset=name, split='random', seconds=o.seconds, threads=1,
                      rows=dict(train=10, test=int(o.n_test)), params=dict(data=name),
                      **({'rmse': o.error} if o.task == 'regression' else
                         {'logloss': o.error, 'accuracy': o.accuracy, 'auc': o.auc})) for o in some.itertuples()]
        (folder/'runs.jsonl').write_text(''.join(json.dumps(o)+'\n' for o in lines))


def test_a_ratio_does_not_depend_on_the_units():
    small, large = (made_up(dict(a=[1*u, 2, 3], b=[2*u, 4, 6]), noise=.1) for u in (1, 1e6))
    assert ratio_interval(small, 'a', 'b') == pytest.approx(ratio_interval(large, 'a', 'b'))
    ratio, low, high = ratio_interval(made_up(dict(a=[1, 2, 3], b=[2, 4, 6])), 'a', 'b')
    assert (ratio, low, high) == pytest.approx((.5, .5, .5))


def test_half_and_twice_the_error_are_level():
    "A mean of differences in percent would say 25% worse"
    runs = made_up(dict(a=[1, 1], b=[2, .5]))
    ratio, low, high = ratio_interval(runs, 'a', 'b')
    assert ratio == pytest.approx(1) and low == pytest.approx(1/high) == pytest.approx(.5)


def test_an_interval_is_of_ratios_even_where_errors_are_wild():
    ratio, low, high = ratio_interval(made_up(dict(a=[1e-4, 5, 100], b=[1, 1, 1]), noise=2.), 'a', 'b')
    assert 0 < low < ratio < high


def test_an_interval_covers_datasets_and_seeds():
    def width(*args, **kwargs): return np.log(np.divide(*ratio_interval(made_up(*args, **kwargs), 'a', 'b')[:0:-1]))
    level = dict(a=[1]*5, b=[2]*5)
    assert width(level) == pytest.approx(0)
    assert width(level, noise=.2) > .05, "seeds"
    assert width(dict(a=[1, 1, 1, 1, 3], b=[2]*5)) > .1, "datasets"
    assert width(level, noise=.2, seeds=2) > width(level, noise=.2, seeds=40)


def test_a_ratio_takes_the_datasets_that_both_have_and_the_mean_over_seeds():
    runs = made_up(dict(a=[1, 2, 9], b=[2, 4, None]))
    assert ratio_interval(runs, 'a', 'b')[0] == pytest.approx(.5)
    runs.loc[(runs.method == 'a') & (runs.dataset == 'd0'), 'error'] = [.5, 1.5]
    assert ratio_interval(runs, 'a', 'b')[0] == pytest.approx(.5)
    assert ratio_interval(made_up(dict(a=[1], b=[4]), seeds=1), 'a', 'b') == pytest.approx((.25, .25, .25))


def test_over_best_and_wins():
    runs = made_up(dict(a=[1, 1, 1, 1.005], b=[2, .4, 1.005, 1], c=[4, None, 3, 3]))
    best = over_best(runs)
    assert list(best) == ['b', 'a', 'c'] and best.loc['d0'].to_dict() == {'b': 2, 'a': 1, 'c': 4}
    assert np.isnan(best.c['d1']) and (best.min(axis=1) == 1).all()
    assert count_wins(runs, 'a', 'b') == (1, 2, 1) and count_wins(runs, 'a', 'b', tie=0) == (2, 0, 2)
    assert count_wins(runs, 'a', 'c') == (3, 0, 0)


def test_ranks_as_the_tables_of_the_test_have_them():
    "Nemenyi's q at 5% is 3.164 for ten methods, 2.343 for three (Demšar, JMLR 2006, table 5)"
    for k, q in ((10, 3.164), (3, 2.343)):
        ranks = rank_many(made_up({f'm{i}': [1+i]*6 for i in range(k)}))
        assert ranks.critical == pytest.approx(q*(k*(k+1)/(6*6))**.5, rel=1e-3)
        assert ranks.mean.tolist() == list(range(1, k+1)) and ranks.n == 6 and ranks.p < .01
    tied = rank_many(made_up(dict(a=[1, 1], b=[1, 1], c=[2, 2])))
    assert tied.mean.to_dict() == {'a': 1.5, 'b': 1.5, 'c': 3}
    assert np.isnan(rank_many(made_up(dict(a=[1, 1], b=[2, 2]))).p)


def test_ranks_take_the_datasets_of_all_methods():
    runs = made_up(dict(a=[1, 2, 3, 1], b=[2, 1, 1, 2], c=[None, 3, 2, 3]))
    assert rank_many(runs).n == 3 and rank_many(runs, ['a', 'b']).n == 4
    with pytest.raises(ValueError, match="3 methods .a, b, c. have 1 datasets in common"):
        rank_many(made_up(dict(a=[1, 1], b=[2, 2], c=[3, None])))


def test_bars_join_what_is_level():
    ranks = rank_many(made_up(dict(a=[1, 2]*9, b=[2, 1]*9, c=[3, 3]*9)))
    assert _level(ranks) == [(0, 1)]
    fig = plot_ranks(ranks, 'Three')
    assert {'a (1.50)', 'b (1.50)', 'c (3.00)'} <= {o.get_text().strip() for o in fig.axes[0].texts}


def test_error_and_time():
    runs = made_up(dict(fastai=[2, 2], ours=[1, 1], slow=[1.5, None]))
    runs['seconds'] = runs.method.map(dict(fastai=1, ours=3, slow=100))*(1+9*(runs.dataset == 'd1'))
    found = error_and_time(runs)
    assert found.time.to_dict() == pytest.approx(dict(ours=3, slow=100, fastai=1))
    assert found.error.to_dict() == pytest.approx(dict(ours=1, slow=1.5, fastai=2)) and found.datasets['slow'] == 1
    fig = plot_error_time(pd.concat([runs, runs.assign(threads=2)]))
    ax = fig.axes[0]
    assert (ax.get_xscale(), ax.get_yscale()) == ('log', 'log') and len(ax.get_legend().get_texts()) == 2
    assert 'slow (1 of 2)' in {o.get_text() for o in ax.texts}
    boxes = [o.get_window_extent() for o in ax.texts]
    assert len(boxes) == 6 and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert sorted(o.get_text() for o in ax.texts)[3:] == ['fastai', 'ours', 'slow (1 of 2)']


def test_small_datasets_get_a_star():
    runs = made_up(dict(a=[1, 2], b=[2, 1]))
    runs.loc[runs.dataset == 'd1', 'n_test'] = 499
    text = format_datasets(runs)
    assert '| d0 | 1,000 | **1** | 2 |' in text and '| d1* | 499 | 2 | **1** |' in text
    assert '*' not in format_datasets(runs, small=100).replace('**', '')


def test_pairs_are_compared_where_both_ran_and_the_worst_dataset_is_named():
    runs = pd.concat([made_up(dict(a=[1, 3, 1], b=[2, 2, None])),
                      made_up(dict(a=[1], b=[2], c=[1]), task='classification').replace('d0', 'c0')])
    runs.loc[runs.method == 'a', 'seconds'] = 5.
    head, _, ab, ac = format_pairs(runs, [('a', 'b'), ('a', 'c')]).splitlines()
    assert 'error ratio, regression | error ratio, classification' in head
    assert ab.startswith('| a | b | 3 | 0.866 [') and '| **0.500** [0.500, 0.500] | 2/0/1 | 1.50 (d1) | 5 |' in ab
    assert ac == '| a | c | 1 |  | 1.000 [1.000, 1.000] | 0/1/0 | 1.00 (c0) | 5 |'
    with pytest.raises(ValueError, match="method='x' has no runs"): count_wins(runs, 'a', 'x')


def test_unknown_methods_are_named():
    runs = made_up(dict(a=[1], b=[2], c=[None, 1]))
    for call in (lambda: ratio_interval(runs, 'a', 'xgb'), lambda: count_wins(runs, 'xgb', 'a'),
                 lambda: error_and_time(runs, 'xgb'), lambda: rank_many(runs, ['a', 'xgb'])):
        with pytest.raises(ValueError, match="method='xgb' has no runs: choose one of 'a', 'b', 'c'"): call()
    with pytest.raises(ValueError, match="a and c have no dataset in common"): ratio_interval(runs, 'a', 'c')


@pytest.mark.slow
def test_the_report_keeps_tasks_apart_and_is_made_from_files_alone(tmp_path):
    reg = made_up(dict(fastai=[2, 3, 4], default=[1, 2, 3], xgb=[1.5, 2, 5], tabm=[1, None, None]))
    cls = made_up(dict(fastai=[.5, .6], default=[.4, .5]), task='classification', accuracy=.8, auc=.9)
    write(tmp_path, pd.concat([reg, cls.assign(dataset='c'+cls.dataset)]))
    text = report_many(tmp_path)
    assert text == (tmp_path/'many.md').read_text()
    regression, classification = text.split('## Regression')[1].split('## Classification')[0], text.split('## Classification')[1]
    assert 'd0-random' in regression and 'cd0' not in regression and 'AUC' not in regression
    assert 'cd0-random' in classification and '| 0.8000 | 0.9000 |' in classification
    pictures = {'error_time', *(f'{o}_{t}' for o in ('error_time', 'ranks') for t in ('regression', 'classification'))}
    assert {o.stem for o in tmp_path.glob('*.png')} == pictures
    assert report_many(tmp_path) == text
    few = report_many(tmp_path, methods=['fastai', 'default'])
    assert '| default |' in few and 'xgb' not in few and 'tabm' not in few
    paired = report_many(tmp_path, pairs=[('default', 'xgb'), ('default', 'lgbm')])
    assert paired.replace(text[text.index('## Regr'):], '').count('| default | xgb | 3 |') == 1 and 'lgbm' not in paired


@pytest.mark.slow
def test_one_dataset_is_enough(tmp_path):
    write(tmp_path, made_up(dict(fastai=[2], default=[1]), seeds=1))
    assert '**0.500** [0.500, 0.500]' in report_many(tmp_path) and not (tmp_path/'ranks_regression.png').exists()


@pytest.mark.slow
def test_a_task_without_the_methods_is_left_out(tmp_path):
    reg, cls = made_up(dict(fastai=[2], default=[1])), made_up(dict(default=[.4]), task='classification')
    write(tmp_path, pd.concat([reg, cls.assign(dataset='c'+cls.dataset)]))
    assert '## Regression' in (text := report_many(tmp_path)) and '## Classification' not in text


def test_what_has_no_logarithm_is_named(tmp_path):
    with pytest.raises(ValueError, match="has no folder with results"): read_many(tmp_path)
    with pytest.raises(ValueError, match="has no folder with results"): read_many(tmp_path/'nowhere')
    write(tmp_path, made_up(dict(a=[1, 0.])))
    with pytest.raises(ValueError, match="a, seed 0, on d1-random has the error 0.0: remove its line"): read_many(tmp_path)


def test_time_is_processor_time_where_it_is_known(tmp_path):
    write(tmp_path, made_up(dict(a=[1]), seeds=2))
    file = tmp_path/'d0-random'/'runs.jsonl'
    lines = [json.loads(o) for o in file.read_text().splitlines()]
    file.write_text(''.join(json.dumps({**o, **more})+'\n' for o, more in zip(lines, ({}, {'cpu_seconds': 7.}))))
    assert read_many(tmp_path).seconds.tolist() == [1., 7.]
    more = dict(threads=2, cpu_seconds=7., wall_seconds=4.)  # that of several threads is added up
    file.write_text(''.join(json.dumps({**o, **more})+'\n' for o in lines))
    assert read_many(tmp_path).seconds.tolist() == [4., 4.]


def test_a_method_alone():
    runs = made_up(dict(a=[1, 2]))
    assert format_many(runs, 'a', 'a').count('\n') == 2 and format_datasets(runs).count('**') == 4
