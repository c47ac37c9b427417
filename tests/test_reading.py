"Files as people have them: dates, numbers with units, years, rows that do not fit, frames of other libraries."
import datetime as dt
import decimal
import importlib.util
import io
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from fastai.tabular.core import add_datepart

from dropconnect_tab.bench.datasets import read_dataset
from dropconnect_tab.frame import TableColumns, _dateparts, how_to_read
from dropconnect_tab.sklearn import DropConnectClassifier, DropConnectRegressor

rng = np.random.default_rng(0)
DAYS = pd.Series(pd.Timestamp('2018-01-05') + pd.to_timedelta(rng.permutation(900)[:120], 'D'))
MOMENTS = DAYS + pd.to_timedelta(rng.integers(0, 86400, 120), 's')


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warnings.filterwarnings('ignore', 'The given NumPy array is not writable')  # fastai under pandas 3
        warnings.filterwarnings('ignore', 'Constructing a Categorical')  # so is this
        yield


def frame(values, dtype=object): return pd.DataFrame({'d': pd.Series(values, dtype=dtype)})


def make(cls=DropConnectRegressor, **kwargs):
    return cls(**{**dict(n_epoch=1, members=1, layers=[8], random_state=0), **kwargs})


def short(days, how):
    "`days` without zeros in front, as %-d and %-m write them where the C library knows them"
    return [how.format(d=o.day, m=o.month, y=o.year % 100, Y=o.year) for o in days]


# --- dates ----------------------------------------------------------------------------------------------------------

WRITTEN = ['%d-%b-%y', '%b %d, %Y', '%Y.%m.%d', '%d %B %Y', '%d.%m.%Y', '%d.%m.%y', '%a, %d %b %Y', '%A, %B %d, %Y',
           '%d/%b/%Y', '%m.%d.%Y', '%Y/%m/%d', '%m/%d/%y', '%d/%m/%y', '%d%b%Y', '%Y-%b-%d', '%d %b, %Y', '%m-%d-%Y', '%Y%m%d']
CLOCKS = ['%m/%d/%Y %I:%M:%S %p', '%Y%m%dT%H%M%S', '%Y-%m-%dT%H:%M:%SZ', '%Y-%m-%d %H:%M:%S.000', '%d/%b/%Y:%H:%M:%S -0700',
          '%a, %d %b %Y %H:%M:%S GMT', '%d.%m.%Y, %H:%M:%S', '%b %d, %Y %I:%M:%S %p', '%d-%b-%Y %H:%M:%S',
          '%Y-%m-%d %H:%M:%S+01:00']


@pytest.mark.parametrize('change', [str, str.upper, str.lower])
@pytest.mark.parametrize('how', [*WRITTEN, *CLOCKS])
def test_dates_as_people_write_them(how, change):
    true = MOMENTS if how in CLOCKS else DAYS
    df = frame([change(o) for o in true.dt.strftime(how)])
    columns = TableColumns(df)
    assert columns.kinds == {'d': 'date'}
    assert columns(df).equals(TableColumns(frame(true, None))(frame(true, None)))
    assert columns(df[5:6]).equals(columns(df)[5:6].reset_index(drop=True))


@pytest.mark.parametrize('how', ['{m}/{d}/{y:02}', '{d}/{m}/{y:02}', '{Y}-{m}-{d}', '{Y}/{m}/{d}', '{d}.{m}.{Y}', '{m}/{d}/{Y}'])
def test_days_without_zeros_in_front(how):
    df = frame(short(DAYS, how))
    assert TableColumns(df)(df).d_Elapsed.tolist() == ((DAYS-pd.Timestamp(0)).dt.total_seconds()).tolist()


@pytest.mark.parametrize('how', ['%b-%Y', '%B %Y', '%b-%y', '%Y-%m', '%m/%Y', '%Y %b'])
def test_months_are_their_first_days(how):
    df = frame(DAYS.dt.strftime(how))
    first = DAYS.dt.to_period('M').dt.to_timestamp()
    assert TableColumns(df).kinds == {'d': 'date'}
    assert TableColumns(df)(df).d_Elapsed.tolist() == ((first-pd.Timestamp(0)).dt.total_seconds()).tolist()


def test_years_of_two_digits():
    df = frame(['25/11/63', '29/10/49', '5/11/50', '1/2/05'])
    assert TableColumns(df)(df).d_Year.tolist() == [1963, 2049, 1950, 2005]


@pytest.mark.parametrize('write', ['{}-1', '{}-Q2', '{}-19', '{0}-{0}', '{}W12', '{}.01'])
def test_terms_and_seasons_are_no_months(write):
    df = frame([write.format(o) for o in range(1990, 2010)])
    assert TableColumns(df).kinds == {'d': 'category'}


@pytest.mark.parametrize('how', ['%Y-%m-%d %H', '%Y-%m-%dT%H', '%m/%d/%Y %I%p', '%d.%m.%Y %I %p'])
def test_clocks_without_minutes(how):
    true = frame(MOMENTS.dt.floor('h'), None)
    df = frame(true.d.dt.strftime(how))
    assert TableColumns(df)(df).equals(TableColumns(true)(true))


def test_parts_of_a_second_and_clocks_that_come_and_go():
    text = [*DAYS[:50].dt.strftime('%Y-%m-%d'), *MOMENTS[50:].dt.strftime('%Y-%m-%d %H:%M:%S.25')]
    df = frame(text)
    true = pd.to_datetime(pd.Series(text), format='ISO8601')
    assert np.allclose(TableColumns(df)(df).d_Elapsed, (true-pd.Timestamp(0)).dt.total_seconds(), rtol=0, atol=.01)


@pytest.mark.parametrize('nothing', ['0000-00-00', 'unknown', 'NULL', '-', '?', 'n/a', '99/99/9999', '2020-02-31'])
@pytest.mark.parametrize('how', ['%Y-%m-%d', '%d/%m/%Y'])
def test_a_few_strings_that_are_no_dates_are_missing_values(how, nothing):
    text = DAYS.dt.strftime(how).tolist()
    df = frame([*text, nothing, nothing])
    with pytest.warns(UserWarning, match=f"column 'd' has 2 values other than dates as {how}") as said:
        columns = TableColumns(df)
    assert len(said) == 1 and repr(nothing) in str(said[0].message)
    res = columns(df)
    assert columns.kinds == {'d': 'date'} and res.isna().all(axis=1).sum() == 2
    assert res[:120].equals(TableColumns(df[:120])(df[:120]))
    with pytest.raises(ValueError, match="column 'd' was read as .* in training, and now has 'soon'"): columns(frame(['soon']))


def test_half_a_column_of_dates_is_a_category_and_said():
    df = frame([*DAYS[:60].dt.strftime('%Y-%m-%d'), *DAYS[60:].dt.strftime('%d.%m.%Y')])
    with pytest.warns(UserWarning, match="'d' is categorical, though most of its values are dates as %Y-%m-%d"):
        assert TableColumns(df).kinds == {'d': 'category'}


@pytest.mark.parametrize('dtype', [float, 'Int64', object, str])
def test_whole_days_where_one_is_missing(dtype):
    days = DAYS.dt.strftime('%Y%m%d').astype(int)
    col = days.astype(object).where(days.index > 0, None)
    col = col.map(lambda o: None if o is None else str(o)) if dtype is str else col.astype(dtype)
    df = pd.DataFrame({'d': col})
    columns = TableColumns(df)
    assert columns.kinds == {'d': 'date'} and np.isnan(columns(df).d_Elapsed[0])
    assert columns(frame([days[3]])).equals(columns(df)[3:4].reset_index(drop=True))
    assert columns(frame([float(days[3])], float)).equals(columns(df)[3:4].reset_index(drop=True))


def test_whole_days_with_a_number_for_none():
    days = DAYS.dt.strftime('%Y%m%d').astype(int).tolist()
    df = frame([*days, 0, 99999999], int)
    with pytest.warns(UserWarning, match="column 'd' has 2 values other than dates as %Y%m%d, such as '0'"):
        columns = TableColumns(df)
    assert columns.kinds == {'d': 'date'} and np.isnan(columns(df).d_Elapsed.iloc[-2:]).all()


OFFSETS = ['2020-03-29T01:00+01:00', '2020-03-29T03:00+02:00', '2020-03-30T01:00:00+0200', '2021-01-01T00:00Z']


def test_two_offsets_are_read_as_the_clock_on_the_wall():
    wall = frame(pd.to_datetime([o[:16] for o in OFFSETS]), None)
    moments = [dt.datetime.fromisoformat(o.replace('Z', '+00:00').replace('0200', '02:00')) for o in OFFSETS]
    for df in (frame(OFFSETS), frame(moments), frame([pd.Timestamp(o) for o in moments])):
        columns = TableColumns(df)
        assert columns.kinds == {'d': 'date'} and columns(df).equals(TableColumns(wall)(wall))
        assert columns(df[1:2]).equals(columns(df)[1:2].reset_index(drop=True))


@pytest.mark.parametrize('how', ['%d/%m/%Y', '%d/%m/%y', '%d-%m-%Y'])
def test_days_and_months_are_told_apart_by_any_day_over_12(how):
    early = DAYS[DAYS.dt.day <= 12]
    with pytest.warns(UserWarning, match=f"column 'd' has dates that are read as .*, and could be .*{how}"):
        TableColumns(frame(early.dt.strftime(how)))
    df = frame([*early.dt.strftime(how), pd.Timestamp('2020-01-13').strftime(how)])
    assert how_to_read('d', df.d, None, 20).format == how


def test_dates_of_a_spreadsheet_with_one_word_among_them():
    df = frame([*DAYS, 'unknown'])
    with pytest.warns(UserWarning, match="column 'd' has 1 value other than dates as %Y-%m-%d, such as 'unknown'"):
        columns = TableColumns(df)
    assert columns.kinds == {'d': 'date'} and columns(df)[:120].equals(TableColumns(df[:120])(df[:120]))


def test_one_date_and_a_word_are_a_category():
    assert TableColumns(frame(['2020-01-01', 'unknown', 'unknown'])).kinds == {'d': 'category'}


# --- numbers --------------------------------------------------------------------------------------------------------

X = rng.uniform(1, 5000, 100).round(2)


def german(x): return f'{x:,.2f}'.translate(str.maketrans(',.', '.,'))


@pytest.mark.parametrize('write', [
    '{:.2f} kmpl', '{:.2f} CC', '{:,.2f}+', '₹{:.2f}', '{:.2f}%', '{:.2f} %', 'US$ {:,.2f}', '{:,.2f} CC', '€{:.2f}', '{:.2f} €',
    '{:.2f}°C', '{:.2f} sq. ft.', '{:.2f} m2', 'Rs. {:,.2f}', '-{:.2f} kg', '{:.3e}', german, lambda x: german(x) + ' €',
    lambda x: f'{x:.2f}'.replace('.', ',')])
def test_numbers_with_a_unit(write):
    write = write.format if isinstance(write, str) else write
    sign = -1 if write(1.).startswith('-') else 1
    df = frame([write(o) for o in X])
    columns = TableColumns(df)
    assert columns.kinds == {'d': 'number'} and np.allclose(columns(df).d, sign*X, rtol=1e-3)
    assert columns(frame([7.5], float)).d[0] == 7.5
    with pytest.raises(ValueError, match="column 'd' was read as number in training, and now has '5 furlongs'"):
        columns(frame(['5 furlongs']))


@pytest.mark.parametrize('write', ['{}', '{} kg', '-{}', '$ {}'])
def test_decimals_without_a_zero_in_front(write):
    df = frame([write.format(f'{o/100:.2f}'.lstrip('0')) for o in range(2, 99)])
    assert np.allclose(abs(TableColumns(df)(df).d), np.arange(2, 99)/100)


def test_numbers_some_of_which_are_strings():
    "As a long CSV file has them, of which pandas reads a part at a time"
    df = frame([*range(40), *map(str, range(40, 60)), '1,234'])
    assert TableColumns(df)(df).d.tolist() == [*range(60), 1234]


def test_whole_numbers_with_a_comma_for_thousands():
    df = frame([f'{o:,}+' for o in range(900, 9000, 70)])
    assert TableColumns(df)(df).d.tolist() == [*range(900, 9000, 70)]


def test_commas_as_in_india():
    df = frame([f'₹{o//100_000},{o//1000 % 100:02},{o % 1000:03}' for o in range(100_000, 999_999, 12_345)])
    assert TableColumns(df)(df).d.tolist() == [*range(100_000, 999_999, 12_345)]


def test_brackets_of_accountants_are_minus_signs():
    df = frame([f'({o:,})' if i % 3 else f'{o:,}' for i, o in enumerate(range(100, 6000, 70))])
    assert TableColumns(df)(df).d.tolist() == [-o if i % 3 else o for i, o in enumerate(range(100, 6000, 70))]


@pytest.mark.parametrize('write', ['A{}', 'SKU-{}', '{:05}', '{}e5', '1.{}.3', '555-{:04}', '{}-20', '+4930123{:04}', '({})', '{}/7',
                                   'v{}', '#{}', 'No. {}', '{0}-{0}', '555 1{:02}', '10.0.0.{}', '{}:30', 'LH {}', '{}A1', '({}) 555', '0{} kg'])
def test_codes_are_no_numbers(write):
    df = frame([write.format(o) for o in range(1, 90)])
    with pytest.warns(UserWarning, match="'d' has 89 distinct strings"): assert TableColumns(df).kinds == {'d': 'category'}
    assert TableColumns(df, cat_names=['d']).kinds == {'d': 'category'}


@pytest.mark.parametrize('n', [1, 40])
def test_numbers_of_different_units_are_said_whatever_their_share(n):
    df = frame([f'{o} {"km/kg" if i % 5 == 0 else "kmpl"}' for i, o in enumerate(X)]*n)
    with pytest.warns(UserWarning, match="'d' is categorical, though .* numbers: .*'km/kg' and 'kmpl'"):
        assert TableColumns(df).kinds == {'d': 'category'}


def test_a_few_lists_are_no_decimals():
    df = frame([*map(str, range(60)), '1,2', '12,3'])
    with pytest.warns(UserWarning, match="nearly all of its values are numbers: .*'1,2'"): assert TableColumns(df).kinds == {'d': 'category'}


def test_points_and_commas_in_one_column_are_said():
    df = frame([f'{o:.2f}' for o in X] + ['1,25'])
    with pytest.warns(UserWarning, match="'d' is categorical, though nearly all of its values are numbers: .*'1,25'"):
        TableColumns(df)


def test_few_different_numbers_with_a_unit_stay_categories_unless_asked():
    df = frame(['5 kg', '7 kg', '9 kg']*20)
    assert TableColumns(df).kinds == {'d': 'category'}
    assert TableColumns(df, cont_names=['d'])(df).d.tolist()[:3] == [5, 7, 9]


# --- whole numbers --------------------------------------------------------------------------------------------------

def test_years_are_numbers():
    df = frame(np.arange(2005, 2020).repeat(4), int)
    columns = TableColumns(df)
    assert columns.kinds == {'d': 'number'} and columns(frame([2020], int)).d[0] == 2020
    assert TableColumns(df, cat_names=['d']).kinds == {'d': 'category'}
    for other in ([1, 2, 3], [0, 2005, 2006], [2005, 9999]): assert TableColumns(frame(other, int)).kinds == {'d': 'category'}


@pytest.mark.parametrize('dtype', [int, 'Int64', float, str])
def test_new_whole_numbers_are_said(dtype):
    columns = TableColumns(frame([*range(1, 8)]*5, int))
    new = frame([3, 8, 9, 9], int).astype(dtype)
    with pytest.warns(UserWarning, match="column 'd' has 3 values, such as 8, .*unknown; name it in cont_names") as said: columns(new)
    assert len(said) == 1
    columns(frame([3, 7], int))
    TableColumns(frame([*range(1, 8)]*5, int), cat_names=['d'])(new)  # who asks for a category knows it


@pytest.mark.parametrize('train, new, same', [
    (['1', '2', '7'], [1, 2, 7], '127'), (['1', '2', '7'], [1., np.nan, 7.], '1-7'), ([1, 2, 7], ['1', '2', '7'], '127'),
    ([1, 2, 7], ['1.0', '2.0', None], '12-'), ([1, 2, 7], [decimal.Decimal('1.0'), None, 7.], '1-7'), ([0, 1, 0], [False, True, None], '01-'),
    (['0', '1', '0'], [False, True, None], '01-'), (['1.0', '2.0', '7.0'], [1, 2., '7'], ['1.0', '2.0', '7.0']),
    (['True', 'False', 'maybe'], [True, False, None], ['True', 'False', '-']), ([True, False, True], ['true', 'FALSE', 0], ['True', 'False', 'False']),
    (pd.array([1, 2, None], dtype='Int64'), pd.Categorical([1, 2, 2]), '122'), (pd.Categorical(['1', '2', '7']), [1, 2, 7], '127'),
    (['1', '2', '7'], pd.array([1, 2, None], dtype='Int64'), '12-'), (['2.5', '3', 'a'], [2.5, 3, 3.], ['2.5', '3', '3'])])
def test_a_category_is_the_same_in_another_type(train, new, same):
    columns = TableColumns(pd.DataFrame({'d': train, 'x': [.5, 1, 2]}))
    assert columns.kinds['d'] == 'category'
    assert columns(pd.DataFrame({'d': new, 'x': 1.})).d.fillna('-').tolist() == [*same]


def test_values_with_blanks_are_those_without():
    columns = TableColumns(frame(['a', 'b ', ' 1', '2']*9))
    assert columns(frame(['a ', ' b', 1, '2 ', 'b '])).d.tolist() == ['a', 'b ', ' 1', '2', 'b ']


def test_true_is_not_one_whatever_comes_first():
    columns = TableColumns(frame([True, 1, 'x', '1', 'True']*9))
    assert columns(frame([True, 1])).d.tolist() == ['True', '1'] and columns(frame([1, True])).d.tolist() == ['1', 'True']


def test_a_column_without_a_known_value_is_said():
    columns = TableColumns(frame([*'abc']*20))
    with pytest.warns(UserWarning, match="column 'd' has no value that training rows had, but ones such as 'x', where they had 'a'"):
        columns(frame([*'xyz']*4))
    columns(frame([*'xyz']*3))  # few rows may be new
    columns(frame([*'xyz']*4+['a']))


TRUTH = {True: [True, 'True', 'true ', 't', 'T', 'yes', 'Y', 1, 1., '1'], False: [False, 'FALSE', 'f', 'No', 'n', 0, 0., '0']}


def test_what_may_mean_true_and_false():
    columns = TableColumns(frame([True, False, None]*9))
    for truth, values in TRUTH.items(): assert {*columns(frame(values)).d} == {str(truth)}
    assert columns(frame([None, np.nan, pd.NA, ' '])).d.isna().all()


@pytest.mark.parametrize('other', ['Wahr', 2, 'maybe', -1, [1]], ids=str)
def test_what_is_neither_true_nor_false(other):
    columns, new = TableColumns(frame([True, False]*9)), frame([True, other, False])
    with pytest.raises(ValueError, match="column 'd' was true or false in training, and now has .*give True or False"): columns(new)
    with pytest.warns(UserWarning, match='1 value could not be parsed'): res = columns(new, errors='coerce').d
    assert res[[0, 2]].tolist() == ['True', 'False'] and pd.isna(res[1])


def test_durations_are_no_numbers_and_numbers_no_durations():
    took, days = frame(pd.to_timedelta(np.arange(60), 'D'), None), frame(np.arange(60)+.5, None)
    for train, new, was in ((took, days, 'durations'), (took, days.astype(int), 'durations'), (days, took, 'numbers')):
        columns = TableColumns(train)
        for errors in ('raise', 'coerce'):
            with pytest.raises(ValueError, match=f"column 'd' had {was} in training.*pd.to_timedelta"): columns(new, errors)
        assert columns(frame([None]*3)).d.isna().all() and len(columns(train)) == 60


def euros(values): return [f'{o:,}'.replace(',', '.')+' €' for o in values]


def test_points_of_thousands():
    values = np.random.default_rng(0).integers(100, 60000, 200)
    columns = TableColumns(frame(euros(values)))
    assert columns.kinds == {'d': 'number'} and columns(frame(euros(values))).d.tolist() == values.tolist()
    assert columns(frame(['1.234.567 €', '1.234,5 €', '7 €'])).d.tolist() == [1234567, 1234.5, 7]
    millions = euros(range(1000, 9_000_000, 99_999))
    assert TableColumns(frame(millions))(frame(millions)).d.tolist() == [*range(1000, 9_000_000, 99_999)]
    decimals = [f'{o/1000:.3f} €' for o in values]  # 0.123 among them
    assert TableColumns(frame(decimals))(frame(decimals)).d.tolist() == (values/1000).tolist()


def test_points_that_may_be_of_thousands_are_said():
    texts = euros(range(1001, 60000, 999))
    with pytest.warns(UserWarning, match="column 'd' has numbers such as '1.001 €'.*read as a decimal one.*thousands"):
        columns = TableColumns(frame(texts))
    assert columns(frame(texts)).d[0] == 1.001


def test_decimals_among_other_numbers_and_missing_ones():
    mixed = [decimal.Decimal(o)/2 if o % 2 else o/2 if o % 3 else o//2 for o in range(60)]
    columns = TableColumns(frame(mixed))
    assert columns.kinds == {'d': 'number'} and columns(frame([decimal.Decimal('.5'), pd.NA, 2, None])).d.fillna(-1).tolist() == [.5, -1, 2, -1]
    assert TableColumns(frame([decimal.Decimal(o) for o in range(59)]+[pd.NA])).kinds == {'d': 'number'}


@pytest.mark.parametrize('values', [[dt.time(o % 24, o) for o in range(60)], [pd.Timedelta(o, 'h') if o else 0 for o in range(60)]],
                         ids=['times', 'mixed'])
def test_distinct_values_that_are_no_strings_are_said(values):
    df = pd.DataFrame({'d': values})
    with pytest.warns(UserWarning, match="column 'd' has 60 distinct values in 60 rows, such as .*convert them"):
        assert TableColumns(df).kinds == {'d': 'category'}
    TableColumns(df, cat_names=['d'])
    TableColumns(df.astype(str).astype('category'))  # its type asks for it


def test_periods_in_an_object_column():
    months = pd.period_range('2015-01', periods=60, freq='M')
    proper, objects = frame(months, None), frame([*months])
    columns = TableColumns(proper)
    assert columns.kinds == TableColumns(objects).kinds == {'d': 'date'}
    assert columns(objects).equals(columns(proper)) and TableColumns(objects)(proper).equals(columns(proper))


def test_codes_that_have_lost_their_zeros_are_said():
    columns = TableColumns(frame(['02139', '02140', '10001']*9))
    with pytest.warns(UserWarning, match="column 'd' has 2 values such as '2139', and '02139' in training: give strings"):
        assert columns(frame([2139, 2140, 10001], int)).d.tolist() == ['2139', '2140', '10001']


# --- rows that do not fit -------------------------------------------------------------------------------------------

def wide(n=60):
    return pd.DataFrame({'shop': [*'abc']*(n//3), 'size': np.arange(n)+.5, 'sold': DAYS.dt.strftime('%m/%d/%y')[:n],
                         'when': DAYS.dt.strftime('%Y-%m-%d')[:n], 'price': [f'{o}.5 kg' for o in range(n)], 'rooms': np.arange(n)})


def shifted(df, row=2):
    "`df` as a CSV file has it where the values of one row are a column too far to the left"
    lines = df.to_csv(index=False).splitlines()
    lines[row+1] = lines[row+1].partition(',')[2] + ',x'
    return pd.read_csv(io.StringIO('\n'.join(lines)))


def test_rows_that_cannot_be_read_are_gaps_where_asked_for():
    df = wide()
    columns = TableColumns(df)
    with pytest.raises(ValueError, match="'size' is not made of numbers|'sold' was read"): columns(shifted(df))
    with pytest.warns(UserWarning, match="4 values could not be parsed, and became missing: .*column 'size'") as said: res = columns(shifted(df), errors='coerce')
    assert len(said) == 1
    other = np.arange(60) != 2
    gone = [o for o in columns.cont_names if o != 'price']  # there it is the number of rooms
    assert res[other].equals(columns(df)[other]) and res.loc[2, gone].isna().all()
    assert columns(df, errors='coerce').equals(columns(df))
    with pytest.warns(UserWarning, match="1 value .*inf"):
        assert np.isnan(columns(df.assign(size=[np.inf, *df['size'][1:]]), errors='coerce')['size'][0])
    with pytest.raises(ValueError, match="errors='skip'"): columns(df, errors='skip')


def test_objects_that_do_not_fit_are_gaps_and_their_neighbours_stay():
    df = pd.DataFrame({'when': DAYS, 'took': pd.to_timedelta(np.arange(120), 'h'), 'size': np.arange(120)+.5, 'n': pd.array(range(120), 'Int64')})
    columns = TableColumns(df)
    wrong = df.astype(object)
    wrong.iloc[2] = ['soon', 'long', 'big', 1j]
    with pytest.warns(UserWarning, match="^4 values could not be parsed"): res = columns(wrong, errors='coerce')
    assert res.loc[2].isna().all() and res.drop(2).equals(columns(df).drop(2))


@pytest.mark.parametrize('cls', [DropConnectRegressor, DropConnectClassifier])
def test_an_estimator_predicts_rows_that_cannot_be_read(cls):
    df = wide()
    y = np.arange(60.) if cls is DropConnectRegressor else np.arange(60) % 2
    est = make(cls).fit(df, y)
    with pytest.raises(ValueError, match="errors='coerce'"): est.predict(shifted(df))
    est = make(cls, members=2, errors='coerce').fit(df, y)
    for o in [o for o in ('predict', 'predict_proba', 'predict_dist') if hasattr(est, o)]:
        with pytest.warns(UserWarning, match="4 values") as said: answer = getattr(est, o)(shifted(df))
        assert [o.category for o in said].count(UserWarning) == 1
        assert all(np.isfinite(a).all() for a in (answer if isinstance(answer, tuple) else [answer]))
    with pytest.raises(ValueError, match="errors='skip'"): make(cls, errors='skip').fit(df, y)


# --- frames of other libraries --------------------------------------------------------------------------------------

def to_arrow(df):
    pa = pytest.importorskip('pyarrow')
    return pa.Table.from_pandas(df, preserve_index=False)


def to_batch(df): return to_arrow(df).to_batches()[0]


def to_polars(df): return pytest.importorskip('polars').DataFrame(df.to_dict('list'))


class Columns:
    "A frame that can say its columns, and has no way to pandas of its own here: polars without pyarrow"
    def __init__(self, df): self.df = df
    shape = property(lambda self: self.df.shape)
    columns = property(lambda self: [*self.df])
    def __len__(self): return len(self.df)
    def to_pandas(self): raise ModuleNotFoundError("pa.Table requires 'pyarrow' module to be installed")
    def to_dict(self, as_series): return self.df.to_dict('list')


@pytest.mark.parametrize('other', [to_arrow, to_batch, to_polars, Columns])
def test_frames_of_other_libraries_keep_their_names(other):
    df = wide().assign(zip=[1.5, 2.5, np.nan]*20)
    est = make(cat_names=['shop', 'zip']).fit(other(df), np.arange(60.))
    assert est.feature_names_in_.tolist() == [*df] and est.columns_.kinds['zip'] == 'category'
    assert np.array_equal(est.predict(df), make(cat_names=['shop', 'zip']).fit(df, np.arange(60.)).predict(df))
    assert np.array_equal(est.predict(other(df[:7])), est.predict(df[:7]))


# --- the arena ------------------------------------------------------------------------------------------------------

@pytest.fixture
def read(tmp_path):
    def f(df, *lines):
        df.to_csv(tmp_path/'h.csv', index=False)
        (tmp_path/'h.toml').write_text('\n'.join(['path = "h.csv"', 'target = "price"', *lines]))
        return read_dataset(tmp_path/'h.toml')
    return f


def sales(sold): return pd.DataFrame({'size': rng.normal(size=120), 'sold': sold, 'price': rng.normal(size=120)})


@pytest.mark.parametrize('how', [*WRITTEN, *CLOCKS])
def test_the_arena_reads_the_same_dates(read, how):
    true = MOMENTS if how in CLOCKS else DAYS
    table = read(sales(true.dt.strftime(how)), 'split = "sold"')
    assert np.array_equal(table.times, true) and len(table.test_idx) == 24
    assert true[table.train_idx].max() < true[table.test_idx].min()


def test_the_arena_says_what_the_estimators_say(read):
    early = DAYS[DAYS.dt.day <= 12]
    df = sales(DAYS)[:len(early)].assign(sold=early.dt.strftime('%d/%m/%Y').to_numpy())
    with pytest.warns(UserWarning, match="column 'sold' has dates that are read as %m/%d/%Y, and could be %d/%m/%Y"):
        read(df, 'split = "sold"')
    with pytest.warns(UserWarning, match="1 value other than dates"), pytest.raises(ValueError, match="split='sold': the column has missing values"):
        read(sales(DAYS.dt.strftime('%Y-%m-%d').where(DAYS.index > 0, 'unknown')), 'split = "sold"')


# --- one row, and many -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('unit', ['s', 'us', 'ns'])
def test_parts_of_dates_are_those_of_fastai(unit):
    days = pd.Series(pd.date_range('1899-12-25', '2031-01-10', freq='1D')).sample(2000, random_state=0).reset_index(drop=True)
    days = (days + pd.to_timedelta(rng.integers(0, 86400, 2000), 's')).astype(f'datetime64[{unit}]')
    warnings.simplefilter('ignore')  # of names that pandas is about to change
    wanted = add_datepart(pd.DataFrame({'d': days.astype('datetime64[ns]')}), 'd', prefix='d_', time=True).astype(float)
    pd.testing.assert_frame_equal(pd.DataFrame(_dateparts('d', days)), wanted)


def test_a_few_rows_are_answered_as_in_a_table_of_many():
    df = wide().assign(size=lambda d: d['size'].where(d.index % 5 > 0))
    est = make(DropConnectClassifier, members=2).fit(df, np.arange(60) % 3)
    for n in (1, 8, 9): assert np.allclose(est.predict_proba(df[:n]), est.predict_proba(df)[:n], rtol=1e-6)


@pytest.mark.parametrize('how', ['%Y-%m-%d %H:%M:%S', '%d/%m/%Y', '%b %d, %Y'])
def test_many_dates_are_read_as_few_are(how):
    many = pd.Series(pd.date_range('1950-01-01', periods=1200, freq='31h'))
    text = [*many.dt.strftime(how), '05/Mar/2020', '2020-01-05T03:15Z']
    df = frame(text)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the two that do not fit
        columns = TableColumns(df)
    alone = pd.concat([columns(df[i:i+1]) for i in range(0, 1202, 100)], ignore_index=True)
    assert columns(df)[::100].reset_index(drop=True).equals(alone)


def test_a_fitted_reader_can_be_pickled():
    df = wide()
    columns = TableColumns(df)
    assert pickle.loads(pickle.dumps(columns))(df).equals(columns(df))


def test_tables_without_rows_or_with_gaps_alone():
    columns = TableColumns(wide())
    assert len(columns(wide()[:0])) == 0
    assert columns(pd.DataFrame({o: [None] for o in wide()})).isna().all(axis=None)
    for values in ([None]*5, [np.nan]*5, [' ']*5, ['-']*30):
        assert TableColumns(frame(values)).kinds == {'d': 'category'}


@pytest.mark.skipif(not importlib.util.find_spec('pyarrow'), reason="no pyarrow")
def test_text_of_arrow_is_read_the_same():
    df = wide()[['shop', 'sold', 'price', 'when']]
    arrow = df.astype('string[pyarrow]')
    assert TableColumns(arrow)(arrow).equals(TableColumns(df)(df)) and TableColumns(df)(arrow).equals(TableColumns(df)(df))
