"Tables, intervals and plots, from files alone."
import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
from helpers import make_table
from matplotlib.figure import Figure

import dropconnect_tab.bench.report as report_module
from dropconnect_tab.bench.cli import report_main as main
from dropconnect_tab.bench.files import append_jsonl, read_arrays, read_jsonl, write_arrays, write_jsonl, write_whole
from dropconnect_tab.bench.methods import read_method
from dropconnect_tab.bench.report import (
    PLOTS, compare, format_settings, format_summary, paired_interval,
    plot_methods, plot_curves, plot_regrowth, plot_weight_p, read_results, report,
    summarise)
from dropconnect_tab.bench.runs import errors, measure_of, preds_file, run_methods, runs_file

Y = np.random.default_rng(0).normal(size=60)


def runs(arm, losses, group=None, seeds=None, measure='rmse'):
    "Runs with these losses (seeds × rows), as `read_results` gives them"
    losses = np.atleast_2d(np.asarray(losses, dtype=float))
    group = np.arange(losses.shape[1]) if group is None else np.asarray(group)
    error = losses.mean(1)**(.5 if measure == 'rmse' else 1)
    return [{'arm': arm, 'seed': s, measure: e, 'losses': o, 'group': group}
            for s, e, o in zip(seeds or range(len(losses)), error, losses)]


def write_run(folder, arm, seed, noise, y=Y, data='abc', params={}, group=None, preds=True, **more):
    "Write a run; the predictions of a regression are off by `noise`, for a classification they are given"
    classify = np.ndim(noise) == 2
    pred = np.asarray(noise) if classify else (y+noise)[:, None]
    error = errors(pred, y, 'logloss' if classify else 'rmse')
    append_jsonl(runs_file(folder), dict(arm=arm, seed=seed, dataset='shops', split='random', seconds=1.+seed,
                                         params={**params, 'data': data}, **error, **more))
    if not preds: return
    rows = {} if preds_file(folder).exists() else dict(y=y, **({} if group is None else dict(group=group)))
    write_arrays(preds_file(folder), {**read_arrays(preds_file(folder)), **rows, f'{arm}/{seed}': pred})


def forget_preds(folder, name):
    arrays = {k: v for k, v in read_arrays(preds_file(folder)).items() if k != name}
    write_whole(preds_file(folder), lambda p: np.savez(p, **arrays))


@pytest.fixture
def folder(tmp_path):
    "Three arms with three seeds: `good` is better than `dense`, `same` is not to be told from it"
    rng, out = np.random.default_rng(1), tmp_path/'shops-random'
    base = rng.normal(size=60)
    for s in range(3):
        curve = dict(curve=[2.-s, 1., .5], params=dict(epochs=3, lr=.01))
        write_run(out, 'dense', s, base + .02*rng.normal(size=60), zeros=0., **curve)
        write_run(out, 'same', s, base + .02*rng.normal(size=60))
        write_run(out, 'good', s, .5*base + .02*rng.normal(size=60), zeros=.5, regrowth=[0., .1*s, .4],
                  curve=[3., 1., .25], params=dict(epochs=3, lr=.01, weight_p=.5))
    return out


def of(results, arm): return [r for r in results if r['arm'] == arm]


# --- Read ---

def test_everything_is_read(folder):
    results = read_results(folder)
    assert [(r['arm'], r['seed']) for r in results] == [(a, s) for a in ('dense', 'good', 'same') for s in range(3)]
    for r in results:
        assert np.isclose(r['losses'].mean()**.5, r['rmse']) and r['group'].tolist() == list(range(60))
    assert {measure_of(r) for r in results} == {'rmse'} and measure_of(dict(logloss=1)) == 'logloss'


def test_seeds_are_read_in_their_order(tmp_path):
    for s in (10, 2, 1): write_run(tmp_path, 'dense', s, 1.)
    assert [r['seed'] for r in read_results(str(tmp_path))] == [1, 2, 10]


def test_groups_are_those_of_the_file(tmp_path):
    write_run(tmp_path, 'dense', 0, 1., group=np.arange(60)//7)
    assert read_results(tmp_path)[0]['group'].tolist() == (np.arange(60)//7).tolist()


def test_runs_without_predictions_are_read(tmp_path):
    write_run(tmp_path, 'dense', 0, 1., preds=False)
    assert 'losses' not in read_results(tmp_path)[0]


def test_no_results(tmp_path):
    for o in (tmp_path, tmp_path/'nowhere'):
        match = f'{o} has no results: give the folder of a dataset and split'
        with pytest.raises(ValueError, match=match): read_results(o)


def test_results_of_other_data(folder):
    write_run(folder, 'other', 0, 1., data='xyz')
    with pytest.raises(ValueError, match=r'runs.jsonl, line 10 was made from other rows or columns than line 1: move'):
        read_results(folder)


@pytest.mark.parametrize('measure', ['rmse', 'logloss'])
def test_predictions_that_do_not_fit_the_line(tmp_path, measure):
    p, y = np.full((60, 2), .5), np.arange(60) % 2
    how = dict(noise=1.) if measure == 'rmse' else dict(noise=p, y=y)
    for s in range(2): write_run(tmp_path, 'dense', s, **how)
    first, second = read_jsonl(runs_file(tmp_path))
    write_jsonl(runs_file(tmp_path), [first, {**second, measure: 1.01}])
    match = f'runs.jsonl says {measure}=1.01 of dense, seed 1, but its predictions give .*: remove its line'
    with pytest.raises(ValueError, match=match): read_results(tmp_path)


@pytest.mark.parametrize('text', ['{"arm": "de', '{}', '{"arm": "dense", "seed": 7}'])
def test_a_line_that_is_no_run_is_named(folder, text):
    with runs_file(folder).open('a') as f: f.write(text+'\n')
    with pytest.raises(ValueError, match='runs.jsonl, line 10'): read_results(folder)


def test_half_a_line_is_an_error(folder):
    with runs_file(folder).open('a') as f: f.write('{"arm": "de')
    with pytest.raises(ValueError, match='runs.jsonl, line 10 is damaged'): read_results(folder)


# --- Intervals ---

def test_identical_arms_do_not_differ():
    losses = np.random.default_rng(0).exponential(size=(3, 50))
    assert paired_interval(runs('a', losses), runs('b', losses)) == (0, 0, 0)


def test_a_constant_difference_has_no_width():
    a, b = runs('a', np.full((3, 50), 4.)), runs('b', np.full((3, 50), 1.))
    assert paired_interval(a, b) == pytest.approx((1, 1, 1)) and paired_interval(b, a) == pytest.approx((-1, -1, -1))
    a, b = (runs(o, np.full((3, 50), v), measure='logloss') for o, v in (('a', 4.), ('b', 1.)))
    assert paired_interval(a, b) == pytest.approx((3, 3, 3))


@pytest.mark.parametrize('measure', ['rmse', 'logloss'])
def test_the_estimate_is_the_difference_of_the_mean_errors(measure):
    rng = np.random.default_rng(0)
    group = rng.integers(9, size=50)
    a, b = (runs(o, rng.exponential(size=(4, 50)), group, measure=measure) for o in 'ab')
    diff, low, high = paired_interval(a, b)
    assert diff == pytest.approx(np.mean([r[measure] for r in a]) - np.mean([r[measure] for r in b]))
    assert low < diff < high
    assert paired_interval(b, a) == pytest.approx((-diff, -high, -low))


def test_two_rows_can_be_drawn_in_three_ways():
    a, b = runs('a', [[9., 1.]]), runs('b', [[4., 4.]])
    diff, low, high = paired_interval(a, b)
    assert (diff, low, high) == pytest.approx((5**.5-2, 1-2, 3-2))


def test_groups_are_drawn_whole_and_weighted_by_their_rows():
    a, b = (runs(o, [v], [7, 7, 7, 2]) for o, v in (('a', [9., 9., 9., 1.]), ('b', [0.]*4)))
    draws = {(2, 0): 3., (1, 1): 7**.5, (0, 2): 1.}
    assert paired_interval(a, b) == pytest.approx((7**.5, min(draws.values()), max(draws.values())))


def test_seeds_are_drawn_together_for_both_arms():
    "Where all rows are alike, only the seeds are left: the outcomes of 3 draws of 3 differences can be counted"
    errors_a, errors_b = np.array([1., 5., 9.]), np.array([1., 4., 7.])
    a, b = (runs(o, np.repeat(e[:, None]**2, 20, 1)) for o, e in (('a', errors_a), ('b', errors_b)))
    outcomes = [np.mean(o) for o in itertools.product(errors_a-errors_b, repeat=3)]
    assert paired_interval(a, b) == pytest.approx((1., min(outcomes), max(outcomes)))
    assert paired_interval(a, runs('b', np.repeat((errors_a[:, None]+1)**2, 20, 1))) == pytest.approx((-1, -1, -1))


@pytest.mark.slow
def test_the_interval_of_many_rows_is_the_normal_one():
    rng = np.random.default_rng(0)
    a, b = rng.exponential(size=(2, 1500))
    diff, low, high = paired_interval(runs('a', a, measure='logloss'), runs('b', b, measure='logloss'))
    half = 1.96*(a-b).std()/1500**.5
    assert (diff-low, high-diff) == pytest.approx((half, half), rel=.07)


def test_the_interval_is_that_of_a_bootstrap_by_hand():
    rng = np.random.default_rng(0)
    group, losses = rng.integers(12, size=80), rng.exponential(size=(2, 3, 80))
    losses[0] *= 1.5
    rows = [np.flatnonzero(group == g) for g in range(12)]
    drawn = []
    for _ in range(3000):
        pick = np.concatenate([rows[g] for g in rng.integers(12, size=12)])
        seeds = rng.integers(3, size=3)
        one, other = (np.sqrt(o[seeds][:, pick].mean(1)).mean() for o in losses)
        drawn.append(one-other)
    found = paired_interval(*(runs(o, v, group) for o, v in zip('ab', losses)))
    assert found[1:] == pytest.approx(np.quantile(drawn, (.025, .975)), abs=.1*np.ptp(found[1:]))


def test_errors_that_rows_of_a_date_share_widen_the_interval():
    rng = np.random.default_rng(0)
    date = np.repeat(np.arange(20), 15)
    a, b = 2 + rng.normal(size=20)[date] + .1*rng.normal(size=300), np.full(300, 2.)
    (_, low, high), (_, low_rows, high_rows) = (paired_interval(runs('a', a**2, g), runs('b', b**2, g))
                                                for g in (date, None))
    assert high-low > 2.5*(high_rows-low_rows)


def test_a_shared_hard_day_does_not_widen_the_interval():
    rng = np.random.default_rng(0)
    base = rng.exponential(20, size=(1, 100))
    paired = np.diff(paired_interval(runs('a', base+1, measure='logloss'), runs('b', base, measure='logloss'))[1:])
    assert paired < 1e-9 and np.ptp(base) > 10


def test_only_common_seeds_are_compared():
    losses = np.random.default_rng(0).exponential(size=(4, 50))
    a, b = runs('a', losses[[0, 1, 2]], seeds=[5, 1, 3]), runs('b', losses[[3, 0]], seeds=[3, 5])
    diff = paired_interval(a, b)[0]
    assert diff == pytest.approx((losses[2].mean()**.5 - losses[3].mean()**.5)/2)
    assert paired_interval(a[::-1], b[::-1]) == paired_interval(a, b)


def test_no_common_seed():
    with pytest.raises(ValueError, match='a and b have no seed in common: run '):
        paired_interval(runs('a', np.ones((2, 9))), runs('b', np.ones((2, 9)), seeds=[2, 3]))


def test_draws_and_their_seed():
    a, b = (runs(o, np.random.default_rng(i).exponential(size=(3, 50))) for i, o in enumerate('ab'))
    assert paired_interval(a, b, n=700) == paired_interval(a, b, n=700)
    assert paired_interval(a, b, n=700)[1:] != paired_interval(a, b, n=700, seed=1)[1:]
    assert paired_interval(a, b, n=1)[1] == paired_interval(a, b, n=1)[2]


# --- The table ---

def test_summary(folder):
    results = read_results(folder)
    s = summarise(results)
    assert s.index[0] == 'good' and set(s.index) == {'dense', 'same', 'good'} and s.rmse.is_monotonic_increasing
    vals = [r['rmse'] for r in of(results, 'dense')]
    assert s.rmse['dense'] == pytest.approx(np.mean(vals)) and s.sd['dense'] == pytest.approx(np.std(vals, ddof=1))
    assert s.seeds.tolist() == [3, 3, 3] and s.seconds['dense'] == 2 and s.zeros['good'] == .5
    assert np.isnan(s.zeros['same']) and 'accuracy' not in s
    assert 'zeros' not in summarise(of(results, 'same'))


def test_all_arms_are_compared_with_each_reference_that_ran(folder):
    results = read_results(folder)
    found = compare(results)
    assert list(found) == [('good', 'dense'), ('same', 'dense')]
    assert found['good', 'dense'] == paired_interval(of(results, 'good'), of(results, 'dense'))
    assert set(compare(results, ('same', 'good'))) == {('dense', 'same'), ('good', 'same'), ('dense', 'good'),
                                                       ('same', 'good')}
    assert compare(of(results, 'same')) == {} == compare(results, ('fastai',))


def cells(text): return {r[0]: r[1:] for r in ([c.strip() for c in o.strip('|').split('|')] for o in text.split('\n'))}


def test_the_formatted_table(folder):
    results = read_results(folder)
    s, compared = summarise(results), compare(results)
    text = format_summary(s, compared)
    assert len({len(o) for o in text.split('\n')}) == 1 and len(text.split('\n')) == 5
    rows = cells(text)
    assert rows['method'] == ['RMSE', 'against dense', 'zeros', 'seconds', 'seeds']
    assert rows['good'][0] == f"{s.rmse['good']:.4f} ± {s.sd['good']:.4f}" and rows['good'][2:] == ['50%', '2.0', '3']
    diff, low, high = compared['good', 'dense']
    assert rows['good'][1] == f'**{diff:+.4f}** [{low:+.4f}, {high:+.4f}]' and high < 0
    assert rows['same'][1] == '{:+.4f} [{:+.4f}, {:+.4f}]'.format(*compared['same', 'dense'])
    assert rows['same'][2] == '' and rows['dense'][1] == ''
    assert cells(format_summary(s))['method'] == ['RMSE', 'zeros', 'seconds', 'seeds']
    assert '±' not in format_summary(summarise([r for r in results if r['seed'] == 0]))


@pytest.mark.parametrize('interval, bold', [((-.2, -.3, -.1), True), ((.2, .1, .3), True), ((.2, -.1, .3), False),
                                            ((-.2, -.3, .1), False), ((0, 0, 0), False), ((.1, 0, .2), False)])
def test_bold_where_the_interval_excludes_zero(interval, bold):
    s = summarise([dict(arm=o, seed=0, rmse=1, seconds=1) for o in ('a', 'dense')])
    assert ('**' in format_summary(s, {('a', 'dense'): interval})) == bold


def test_classifications_show_their_accuracy(tmp_path):
    rng, y = np.random.default_rng(0), np.arange(60) % 2
    for s in range(2):
        p = rng.uniform(.1, .9, size=60)
        write_run(tmp_path, 'dense', s, np.stack([p, 1-p], 1), y)
        p = np.where(y, .1, .9)
        write_run(tmp_path, 'rf', s, np.stack([p, 1-p], 1), y)
    results = read_results(tmp_path)
    assert np.allclose(of(results, 'rf')[0]['losses'], -np.log(.9))
    rows = cells(format_summary(summarise(results), compare(results)))
    assert rows['method'] == ['log loss', 'against dense', 'accuracy', 'seconds', 'seeds']
    assert rows['rf'][0] == '0.1054 ± 0.0000' and rows['rf'][2] == '100.00%' and rows['rf'][1].startswith('**-')
    assert rows['dense'][2] == f"{np.mean([r['accuracy'] for r in of(results, 'dense')]):.2%}"
    assert plot_methods(results).axes[0].get_xlabel().startswith('log loss')


def test_settings_that_a_search_has_chosen(tmp_path):
    for s in range(2):
        write_run(tmp_path, 'dense', s, 1., params=dict(lr=.02, layers=[20, 10]),
                  search=dict(tried=7, chosen=3, error=.25))
        write_run(tmp_path, 'blend', s, 1.)
    results = read_results(tmp_path)
    rows = cells(format_settings(results))
    assert rows.pop('method') == ['settings tried', 'RMSE in the search', 'chosen']
    assert list(rows)[1:] == ['dense'] and rows['dense'] == ['7', '0.2500', 'lr=0.02, layers=[20, 10]']
    assert format_settings(of(results, 'blend')) == ''


# --- Plots ---

def lines(fig): return fig.axes[0].lines


def test_plot_methods_has_a_dot_for_each_seed_and_a_bar_at_the_mean(folder):
    results = read_results(folder)
    fig = plot_methods(results, 'a title')
    ax = fig.axes[0]
    assert ax.get_title() == 'a title' and ax.get_xlabel().startswith('RMSE')
    names = [o.get_text() for o in ax.get_yticklabels()]
    assert names == list(summarise(results).index) and ax.yaxis_inverted()
    for i, arm in enumerate(names):
        dots, bar = lines(fig)[2*i:2*i+2]
        vals = [r['rmse'] for r in of(results, arm)]
        assert np.allclose(dots.get_xdata(), vals) and set(dots.get_ydata()) == {i}
        assert np.allclose(bar.get_xdata(), np.mean(vals)) and np.mean(bar.get_ydata()) == i
        assert dots.get_color() == ('tab:orange' if arm == 'good' else 'tab:blue')


@pytest.mark.parametrize('arm, params, color', [
    ('default', {}, 'orange'), ('default,weight_p=0', dict(weight_p=0), 'blue'), ('dense', {}, 'blue'),
    ('trainable', dict(weight_p=None), 'orange'), ('trainable', dict(weight_p=.5), 'orange'), ('rf', {}, 'blue')])
def test_arms_that_dropped_weights_are_orange(tmp_path, arm, params, color):
    write_run(tmp_path, arm, 0, 1., params=params)
    assert lines(plot_methods(read_results(tmp_path)))[0].get_color() == f'tab:{color}'


@pytest.mark.parametrize('plot, key, arms', [(plot_curves, 'curve', ['dense', 'good']),
                                             (plot_regrowth, 'regrowth', ['good'])])
def test_plots_over_epochs(folder, plot, key, arms):
    results = read_results(folder)
    fig = plot(results, 'a title')
    ax = fig.axes[0]
    assert ax.get_title() == 'a title' and ax.get_xlabel() == 'epoch'
    assert [o.get_text() for o in ax.get_legend().get_texts()] == arms
    assert ax.get_yscale() == ('log' if key == 'curve' else 'linear') and (key == 'curve' or ax.get_ylim()[0] == 0)
    for i, arm in enumerate(arms):
        *seeds, mean = lines(fig)[4*i:4*i+4]
        logged = [r[key] for r in of(results, arm)]
        assert [list(o.get_ydata()) for o in seeds] == logged and np.allclose(mean.get_ydata(), np.mean(logged, axis=0))
        assert all(list(o.get_xdata()) == [1, 2, 3] for o in (*seeds, mean)) and mean.get_label() == arm
    assert plot(of(results, 'same')) is None


def test_more_arms_than_colors(tmp_path):
    for i in range(14): write_run(tmp_path, f'dense,lr={i}', 0, 1., curve=[2., 1.])
    found = [o.get_color() for o in lines(plot_curves(read_results(tmp_path)))[1::2]]
    assert len(found) == 14 and len(set(map(str, found))) == 14


def test_plot_weight_p(tmp_path):
    for s in range(2):
        for arm, p, noise in (
                ('trainable', .5, 1), ('trainable,weight_p=0.9', .9, 3), ('trainable,weight_p=0.3', .3, 2),
                ('frozen', .5, 4), ('frozen,lr=1,weight_p=0.2', .2, 5), ('frozen,weight_p=0.7,lr=1', .7, 6)):
            write_run(tmp_path, arm, s, noise+.1*s, params=dict(weight_p=p))
        write_run(tmp_path, 'dense', s, 2.5+.1*s)
    results = read_results(tmp_path)
    ax = plot_weight_p(results, 'a title').axes[0]
    assert ax.get_title() == 'a title' and ax.get_xlabel() == 'weight_p'
    found = {c.get_label(): c for c in ax.containers}
    assert set(found) == {'trainable', 'frozen,lr=1'}, "one weight_p makes no line"
    line, _, bars = found['trainable']
    assert np.allclose(line.get_xdata(), [.3, .5, .9]) and np.allclose(line.get_ydata(), [2.05, 1.05, 3.05])
    half = np.std([0, .1], ddof=1)
    assert np.allclose([np.ptp(o[:, 1]) for o in bars[0].get_segments()], 2*half)
    dense = next(o for o in ax.lines if o.get_label() == 'dense')
    assert np.allclose(dense.get_ydata(), 2.55)
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert np.allclose([band.y0, band.y1], [2.55-half, 2.55+half])
    assert plot_weight_p([*of(results, 'trainable'), *of(results, 'frozen'), *of(results, 'dense')]) is None
    one = plot_weight_p([r for r in results if r['seed'] == 0 and r['arm'].startswith('train')])
    assert np.allclose(one.axes[0].containers[0][0].get_ydata(), [2, 1, 3])


# --- The report ---

OUTPUTS = ['arms.png', 'curves.png', 'regrowth.png', 'table.md']


def outputs(folder): return sorted(o.name for o in folder.iterdir() if o.suffix in ('.md', '.png'))


@pytest.mark.slow
def test_the_report_is_written_beside_the_runs_and_can_be_made_again(folder):
    text = report(folder)
    assert outputs(folder) == OUTPUTS and (folder/'table.md').read_text() == text + '\n'
    assert text == format_summary(summarise(read_results(folder)), compare(read_results(folder)))
    for o in folder.glob('*.png'): assert o.read_bytes()[:4] == b'\x89PNG' and o.stat().st_size > 5000
    for o in OUTPUTS: (folder/o).unlink()
    assert report(str(folder)) == text and outputs(folder) == OUTPUTS
    assert report(folder) == text


@pytest.mark.slow
def test_a_copy_of_the_files_gives_the_same_report(folder, tmp_path):
    text = report(folder)
    shutil.copytree(folder, tmp_path/'elsewhere', ignore=shutil.ignore_patterns('*.md', '*.png'))
    assert report(tmp_path/'elsewhere') == text


@pytest.mark.slow
def test_the_report_of_real_runs(tmp_path):
    table = make_table(times=pd.Series(np.arange(200)//4))
    names = ['dense', 'trainable,weight_p=0.3', 'trainable,weight_p=0.6', 'rf']
    res = run_methods(table, [read_method(o) for o in names], 2, tmp_path, 'cpu', search=2, epochs=1, layers=(20, 10),
                      n_estimators=10)
    folder = tmp_path/'shops-random'
    text = report(folder)
    assert outputs(folder) == ['arms.png', 'curves.png', 'regrowth.png', 'settings.md', 'table.md', 'weight_p.png']
    rows = cells(text)
    for name in names:
        vals = [r['rmse'] for r in res if r['arm'] == name]
        assert rows[name][0] == f'{np.mean(vals):.4f} ± {np.std(vals, ddof=1):.4f}'
    assert (folder/'settings.md').read_text() == format_settings(read_results(folder)) + '\n'
    assert read_results(folder)[0]['group'].tolist() == sorted(np.arange(40)//4)
    assert cells(report(tmp_path/'shops-random-search'))['method'] == ['RMSE', 'zeros', 'seconds', 'seeds']
    preds_file(folder).unlink()
    assert 'against' not in report(folder)


@pytest.mark.slow
def test_intervals_only_where_predictions_are(folder):
    whole = cells(report(folder))
    forget_preds(folder, 'same/1')
    rows = cells(report(folder))
    assert rows.pop('same')[1] == '' != whole.pop('same')[1] and rows == whole
    forget_preds(folder, 'dense/0')
    assert 'against' not in report(folder)


def test_the_title_says_which_table(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(report_module, 'PLOTS', {o: lambda results, title: seen.append(title) for o in PLOTS})
    report(folder)
    assert seen == ['shops, split random']*4 and outputs(folder) == ['table.md']


@pytest.mark.slow
def test_a_report_that_is_stopped_leaves_nothing_half_written(folder, monkeypatch):
    report(folder)
    before = {o: (folder/o).read_bytes() for o in OUTPUTS}
    def full(self, path, **kwargs):
        path.write_bytes(b'half')
        raise OSError('disk full')
    monkeypatch.setattr(Figure, 'savefig', full)
    with pytest.raises(OSError): report(folder)
    assert outputs(folder) == OUTPUTS and {o: (folder/o).read_bytes() for o in OUTPUTS} == before
    assert not list(folder.glob('.*'))


@pytest.mark.slow
def test_figures_are_closed(folder):
    import matplotlib.pyplot as plt
    plt.close('all')
    report(folder)
    assert not plt.get_fignums()


@pytest.mark.slow
def test_main_takes_several_folders(folder, tmp_path, capsys):
    write_run(tmp_path/'other', 'dense', 0, 1.)
    main([str(folder), str(tmp_path/'other')])
    out = capsys.readouterr().out
    assert (folder/'table.md').read_text() in out and (tmp_path/'other'/'table.md').read_text() in out
    assert out.index(str(folder)) < out.index(str(tmp_path/'other'))


@pytest.mark.slow
def test_main_with_a_bad_folder(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as e: main([str(folder), str(tmp_path/'nowhere')])
    err = capsys.readouterr().err
    assert e.value.code == 2 and 'nowhere has no results' in err and 'Traceback' not in err
    assert (folder/'table.md').exists()
    with pytest.raises(SystemExit) as e: main([])
    assert e.value.code == 2
