"What is not on the page of the Bulldozers table: every way a file can be broken, and the numbers of the real one"
import hashlib, os, re, zipfile

import numpy as np, pandas as pd, pytest

from dropconnect_tab.bench import bulldozers
from dropconnect_tab.bench.bulldozers import (
    COLUMNS, FEATURES, SPLITS, _class_range, book_features, bulldozers_dataset, check_split, load_bulldozers,
    own_features, split_bulldozers)
from dropconnect_tab.bench.synthetic import synthetic_sales, write_synthetic

@pytest.fixture(scope='module')
def sales(): return synthetic_sales(400)

def as_csv(df, **kwargs): return df.to_csv(index=False, lineterminator='\r\n', **kwargs).encode()

def as_zip(path, **files):
    "A zip at `path` with `files`, which are bytes; `__csv` at the end of a name is `.csv`"
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for name,raw in files.items(): z.writestr(re.sub('__([a-z]+)$', r'.\1', name), raw)
    return path

def raises(exc, path, *texts):
    "Loading `path` raises `exc`, nothing else, with all `texts` in its message"
    with pytest.raises(exc) as e: load_bulldozers(path, verbose=False)
    assert type(e.value) is exc
    for o in texts: assert o in str(e.value)

def broken(tmp_path, df, *texts, **kwargs):
    path = tmp_path/'sales.csv'
    path.write_bytes(df if isinstance(df, bytes) else as_csv(df, **kwargs))
    raises(ValueError, path, 'sales.csv', *texts)

def with_cell(df, row, col, value):
    df = df.astype({col:object})
    df.loc[row-1,col] = value
    return df

# --- errors: the path -----------------------------------------------------------------------------------------------

def test_missing_path(tmp_path):
    raises(FileNotFoundError, tmp_path/'no.zip', 'no.zip', 'bluebook-for-bulldozers', 'TrainAndValid.zip', 'account')

@pytest.mark.parametrize('name', ['sales.csv', 'sales.zip'])
@pytest.mark.parametrize('raw', [b'', b'\r\n \n'])
def test_empty_file(tmp_path, name, raw):
    (tmp_path/name).write_bytes(raw)
    raises(ValueError, tmp_path/name, f'{name} needs column SalesID', 'TrainAndValid.zip')

def test_truncated_zip(tmp_path, sales):
    raw = as_zip(tmp_path/'a.zip', TrainAndValid__csv=as_csv(sales)).read_bytes()
    (tmp_path/'a.zip').write_bytes(raw[:len(raw)//2])
    raises(ValueError, tmp_path/'a.zip', 'a.zip is damaged', 'download it again')

def test_damaged_zip(tmp_path, sales):
    raw = bytearray(as_zip(tmp_path/'a.zip', TrainAndValid__csv=as_csv(sales)).read_bytes())
    raw[len(raw)//2] ^= 0xff
    (tmp_path/'a.zip').write_bytes(raw)
    raises(ValueError, tmp_path/'a.zip', 'a.zip is damaged', 'download it again')

def test_zip_without_csv(tmp_path):
    path = as_zip(tmp_path/'a.zip', readme__txt=b'hello')
    raises(ValueError, path, 'a.zip has no TrainAndValid.csv in it', 'kaggle.com')

def test_zip_with_unknown_csvs(tmp_path):
    path = as_zip(tmp_path/'a.zip', x__csv=b'1', y__csv=b'2')
    raises(ValueError, path, 'a.zip has no TrainAndValid.csv in it', 'kaggle.com')

def test_known_name_for_a_zip_of_several(tmp_path, sales):
    inner = as_zip(tmp_path/'i.zip', x__csv=b'1', y__csv=b'2').read_bytes()
    path = as_zip(tmp_path/'a.zip', TrainAndValid__zip=inner, z__csv=b'3')
    raises(ValueError, path, 'TrainAndValid.zip has no TrainAndValid.csv in it')

def test_folder_without_known_file(tmp_path, sales):
    (tmp_path/'other.csv').write_bytes(as_csv(sales))
    raises(ValueError, tmp_path, f'{tmp_path} has no TrainAndValid (.csv or .zip) in it', 'kaggle.com')

# --- errors: the csv ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('sep', ';\t|')
def test_delimiter(tmp_path, sales, sep): broken(tmp_path, sales, 'and commas between its columns', sep=sep)

@pytest.mark.parametrize('cols', [['SalePrice'], ['saledate'], ['Blade_Type'], ['ModelID','Tire_Size'], COLUMNS[1:]])
def test_missing_columns(tmp_path, sales, cols):
    broken(tmp_path, sales.drop(columns=cols), f"needs column {', '.join(cols)} once", 'TrainAndValid.zip')

def test_column_twice(tmp_path, sales):
    broken(tmp_path, as_csv(sales).replace(b'Ripper,', b'Ripper,Ripper,', 1), 'needs column Ripper once')

def test_header_only(tmp_path, sales): broken(tmp_path, sales.head(0), 'no rows', 'download it again')

@pytest.mark.parametrize('raw', [b'hello', b'\xef\xbb\xbf', b'\x1f\x3c\n\x00'])
def test_another_kind_of_file(tmp_path, raw): broken(tmp_path, raw, 'SalesID', 'saledate', 'TrainAndValid.zip')

def test_not_utf8(tmp_path, sales):
    raw = as_csv(sales)
    i = [i for i,o in enumerate(raw) if o == 10][6] + 12
    broken(tmp_path, raw[:i] + b'\xff' + raw[i+1:], '0xff', 'not a csv in UTF-8', 'download it again')

def test_utf16(tmp_path, sales):
    broken(tmp_path, sales.to_csv(index=False).encode('utf-16'), '0xff', 'behind row 0', 'not a csv in UTF-8')

@pytest.mark.parametrize('every', [False, True])
@pytest.mark.parametrize('more', [b',x', b',', None])
def test_ragged_rows(tmp_path, sales, more, every):
    lines = as_csv(sales.head(9)).split(b'\r\n')
    for i in range(1, 10) if every else [4]: lines[i] = lines[i] + more if more else lines[i].rsplit(b',', 1)[0]
    row,n = 1 if every else 4,54 if more else 52
    broken(tmp_path, b'\r\n'.join(lines), f'row {row}: {n} values for 53 columns', 'correct the row')

def test_cut_off(tmp_path, sales):
    raw = as_csv(sales.head(9)).rstrip()
    broken(tmp_path, raw[:raw.rindex(b'\n')+30], 'row 9', 'values for 53 columns', 'download')

def test_open_quote(tmp_path, sales):
    raw = as_csv(sales.head(9)).rstrip()
    broken(tmp_path, raw.rsplit(b',', 1)[0] + b',"Conventional', 'behind row 8', 'download it again')
    lines = raw.split(b'\r\n')
    lines[3] = lines[3].replace(b',', b',"', 1)
    broken(tmp_path, b'\r\n'.join(lines), 'behind row 2', 'expected after', 'download it again')

def test_endless_field(tmp_path, sales):
    broken(tmp_path, as_csv(sales.head(2)) + b'1,"' + b'x'*200_000, 'behind row 2', 'field larger than', 'download it again')

@pytest.mark.parametrize('value', ['31/12/2011 0:00', 'soon', '', '2/30/2011 0:00', '9999-01-01', 'NaT'])
@pytest.mark.parametrize('row', [1, 6])
def test_dates(tmp_path, sales, value, row):
    broken(tmp_path, with_cell(sales, row, 'saledate', value), f'row {row}: saledate {value or "nan"}',
           'cannot be: write a date', 'month/day/year')

def test_day_first_is_no_date(tmp_path, sales):
    dates = pd.to_datetime(sales.saledate).dt.strftime('%d/%m/%Y')
    bad = dates[dates.str[:2].astype(int) > 12].index[0]
    assert bad > 0 or dates[0][:2] > '12'
    broken(tmp_path, sales.assign(saledate=dates), f'saledate {dates[bad]}', 'write a date')

@pytest.mark.parametrize('value', [-1, 0, '', 'cheap', 'inf', '-inf'])
def test_prices(tmp_path, sales, value):
    shown = {'':'nan'}.get(value, value)
    broken(tmp_path, with_cell(sales, 5, 'SalePrice', value), f'row 5: SalePrice {shown}', 'dollars above 0')

# --- what can be read -----------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_all_forms_give_the_same_table(tmp_path, sales):
    raw = as_csv(sales)
    (tmp_path/'TrainAndValid.csv').write_bytes(raw)
    expected = load_bulldozers(tmp_path/'TrainAndValid.csv', verbose=False)
    assert [*expected] == COLUMNS and len(expected) == 400
    assert expected.saledate.dtype == 'datetime64[ns]' and expected.SalePrice.dtype == float
    inner = as_zip(tmp_path/'inner.zip', TrainAndValid__csv=raw).read_bytes()
    names = dict(Machine_Appendix__csv=b'a,b\n1,2\n', Test__csv=b'a\n1\n')
    (tmp_path/'other name.csv').write_bytes(raw)
    (tmp_path/'a').mkdir()
    (tmp_path/'b').mkdir()
    forms = dict(
        folder=tmp_path, as_str=str(tmp_path), other=tmp_path/'other name.csv',
        zip=as_zip(tmp_path/'TrainAndValid.zip', TrainAndValid__csv=raw),
        zip_other=as_zip(tmp_path/'x.zip', **{'some/folder/x.csv':raw, '__MACOSX/._x.csv':b'junk', 'readme.txt':b''}),
        zip_unnamed=tmp_path/'download', zip_zip=as_zip(tmp_path/'y.zip', TrainAndValid__zip=inner),
        folder_zip=as_zip(tmp_path/'a'/'TrainAndValid.zip', TrainAndValid__csv=raw).parent,
        archive=as_zip(tmp_path/'all.zip', TrainAndValid__zip=inner, **names),
        archive_csv=as_zip(tmp_path/'all2.zip', **{'TrainAndValid__csv':raw, 'TrainAndValid__zip':inner}, **names),
        folder_archive=as_zip(tmp_path/'b'/'bluebook-for-bulldozers.zip', TrainAndValid__zip=inner, **names).parent)
    forms['zip_unnamed'].write_bytes(inner)
    for name,path in forms.items():
        pd.testing.assert_frame_equal(load_bulldozers(path, verbose=False), expected, obj=name)

@pytest.mark.parametrize('change', ['bom', 'lf', 'no last newline', 'blank lines', 'line break in quotes',
                                    'stray quote', 'iso', 'day', 'extra column', 'column order'])
def test_harmless_differences(tmp_path, sales, change):
    sales = sales.head(20)
    raw = as_csv(sales)
    expected = sales.assign(saledate=pd.to_datetime(sales.saledate).astype('datetime64[ns]'))
    if change == 'bom': raw = b'\xef\xbb\xbf' + raw
    if change == 'lf': raw = raw.replace(b'\r\n', b'\n')
    if change == 'no last newline': raw = raw.rstrip()
    if change == 'blank lines': raw = b'\r\n' + raw + b'\r\n\r\n'
    if change == 'line break in quotes': raw = as_csv(with_cell(sales, 3, 'Forks', 'a,\n"b"'))
    if change == 'stray quote': raw = as_csv(with_cell(sales, 3, 'Forks', 'STRAY')).replace(b'STRAY', b'14"')
    if change == 'iso': raw = as_csv(expected)
    if change == 'day': raw = raw.replace(b' 0:00,', b',')
    if change == 'extra column': raw = as_csv(sales.assign(mine=1))
    if change == 'column order': raw = as_csv(sales[COLUMNS[::-1]])
    (tmp_path/'a.csv').write_bytes(raw)
    df = load_bulldozers(tmp_path/'a.csv', verbose=False)
    assert [*df] == COLUMNS and len(df) == 20
    for c in ('saledate','SalesID','SalePrice','fiModelDesc'): np.testing.assert_array_equal(df[c], expected[c])
    if change == 'line break in quotes': assert df.Forks[2] == 'a,\n"b"'
    if change == 'stray quote': assert df.Forks[2] == '14"'

def test_verbose(tmp_path, sales, capsys, monkeypatch):
    (tmp_path/'sub').mkdir()
    (tmp_path/'sub'/'TrainAndValid.csv').write_bytes(as_csv(sales))
    load_bulldozers(tmp_path/'sub', verbose=False)
    assert capsys.readouterr().out == ''
    load_bulldozers(tmp_path/'sub')
    dates = pd.to_datetime(sales.saledate)
    line = f'sub/TrainAndValid.csv: 400 sales from {dates.min():%Y-%m-%d} to {dates.max():%Y-%m-%d}'
    assert capsys.readouterr().out == f'{line}, synthetic\n'
    (tmp_path/'sub'/'TrainAndValid.csv').write_bytes(raw := as_csv(sales.assign(datasource=121)))
    load_bulldozers(tmp_path/'sub')
    assert capsys.readouterr().out == f'{line}\n'
    monkeypatch.setattr(bulldozers, '_OFFICIAL', hashlib.sha256(raw).hexdigest())
    load_bulldozers(tmp_path/'sub')
    assert capsys.readouterr().out == f'{line}, official file\n'

def test_official_hash():
    assert bulldozers._OFFICIAL == '046cce581480f6d7a9505810ddf505f1aa31b32c701edb33872217f117136ae3'

# --- splits ---------------------------------------------------------------------------------------------------------

DATES = ['2010-11-01', '2011-09-30', '2011-10-01', '2011-12-31', '2012-01-01', '2012-03-31', '2012-04-01',
         '2012-04-30', '2012-05-01', '2012-10-01']

@pytest.mark.parametrize('split, train, test', [
    ('book', [0,1,4,5,6,7,8], [2,3,9]), ('kaggle', [0,1,2,3], [4,5,6,7]), ('2012', [4,5], [6,7]),
    ('auto', [0,1,4,5,6,7,8], [2,3,9])])
def test_splits_by_date(split, train, test):
    df = pd.DataFrame(dict(saledate=pd.to_datetime(DATES)), index=[7]*len(DATES))  # positions, not labels
    name,*rows = split_bulldozers(df, split)
    assert name == {'auto':'book'}.get(split, split)
    for a,b in zip(rows, (train,test)):
        assert isinstance(a, np.ndarray) and a.dtype.kind == 'i'
        np.testing.assert_array_equal(a, b)

def test_auto_without_2011():
    df = pd.DataFrame(dict(saledate=pd.to_datetime(DATES[4:])))
    assert split_bulldozers(df)[0] == '2012'

def test_raw_dates_can_be_split(sales):
    name,train,test = split_bulldozers(sales)
    assert name == 'book' and len(train) + len(test) == 400 and len(test) > 0

def test_unknown_split(sales):
    with pytest.raises(ValueError, match="split='2013' is unknown: choose one of 'book', 'kaggle', '2012', 'auto'"):
        split_bulldozers(sales, '2013')

@pytest.mark.parametrize('split, dates, texts', [
    ('book', DATES[4:7], ["'book' leaves 3 rows to train and 0 to test", '2012-01-01 to 2012-04-01', 'choose another']),
    ('kaggle', DATES[:4], ["'kaggle' leaves 4 rows to train and 0 to", '2010-11-01 to 2011-12-31']),
    ('2012', DATES[:6], ["split='2012' leaves 2 rows to train and 0 to test"]),
    ('auto', DATES[1:2], ["split='book' leaves 1 rows to train and 0 to test"]),
    ('auto', DATES[:1], ["split='2012' leaves 0 rows to train and 0 to test", 'another file'])])
def test_empty_part(split, dates, texts):
    with pytest.raises(ValueError) as e: split_bulldozers(pd.DataFrame(dict(saledate=pd.to_datetime(dates))), split)
    for o in texts: assert o in str(e.value)

def test_real_2012(data_path, capsys):
    df = load_bulldozers(data_path/'bulldozers-2012'/'TrainAndValid.zip')
    assert '11,573 sales from 2012-01-01 to 2012-04-28' in capsys.readouterr().out
    name,train,test = split_bulldozers(df)
    assert (name,len(train),len(test)) == ('2012',9877,1696)
    assert not set(train) & set(test)
    feats,cats,conts = book_features(df)
    assert (len(cats),conts) == (13,['saleElapsed']) and feats.SalePrice.between(8, 12).all()
    pd.testing.assert_frame_equal(load_bulldozers(data_path/'bulldozers-2012', verbose=False), df)

def test_real_test_file_has_no_prices(data_path):
    raises(ValueError, data_path/'bulldozers-2012'/'Test.zip', 'Test.csv needs column SalePrice')

# --- features -------------------------------------------------------------------------------------------------------

both = pytest.mark.parametrize('features', [book_features, own_features])

@both
def test_features_leave_their_input_alone(sales, features):
    before = sales.copy()
    features(sales)
    pd.testing.assert_frame_equal(sales, before)

def test_feature_values(sales):
    feats,cats,conts = book_features(sales)
    assert {*feats} == {*cats, *conts, 'SalePrice', 'saledate'} and len(feats.columns) == 16
    assert feats.SalePrice.dtype == np.float32
    np.testing.assert_allclose(feats.SalePrice, np.log(sales.SalePrice), rtol=1e-6)
    dates = pd.to_datetime(sales.saledate)
    np.testing.assert_array_equal(feats.saledate, dates)
    np.testing.assert_array_equal(feats.saleElapsed, (dates - pd.Timestamp('1970-01-01')).dt.total_seconds())
    size = feats.ProductSize
    assert [*size.cat.categories] == ['Large','Large / Medium','Medium','Small','Mini','Compact'] and size.cat.ordered
    for c in cats: pd.testing.assert_series_equal(feats[c].astype(sales[c].dtype), sales[c])

@pytest.mark.parametrize('unit', ['s', 'ms', 'us', 'ns'])
def test_elapsed_is_in_seconds(sales, unit):
    df = sales.assign(saledate=pd.to_datetime(sales.saledate).astype(f'datetime64[{unit}]'))
    np.testing.assert_array_equal(book_features(df)[0].saleElapsed, book_features(sales)[0].saleElapsed)

@both
def test_feature_index_is_kept(sales, features):
    df = sales.set_index(sales.SalesID + 5)
    feats = features(df)[0]
    assert feats.index.equals(df.index) and feats.notna().loc[:,['SalePrice','saledate','ModelID']].all(axis=None)

@both
@pytest.mark.parametrize('change, texts', [
    (lambda d: with_cell(d, 4, 'SalePrice', -2.), ['row 4: SalePrice -2.0', 'dollars above 0']),
    (lambda d: with_cell(d, 4, 'saledate', 'soon'), ['row 4: saledate soon', 'month/day/year']),
    (lambda d: with_cell(d, 4, 'ProductSize', 'Huge'), ['row 4: ProductSize Huge', 'Large / Medium'])])
def test_feature_errors(sales, features, change, texts):
    with pytest.raises(ValueError) as e: features(change(sales))
    for o in texts: assert o in str(e.value)

def test_own_columns(sales):
    feats,cats,conts = own_features(sales)
    assert {*feats} == {*cats, *conts, 'SalePrice', 'saledate'} and not {*cats} & {*conts}
    assert {*book_features(sales)[1]} - {'YearMade'} <= {*cats} and 'YearMade' in conts
    assert not {'SalesID','MachineID','saleElapsed'} & {*feats}
    assert all(feats[c].dtype == float for c in conts)
    np.testing.assert_allclose(feats.SalePrice, np.log(sales.SalePrice), rtol=1e-6)
    assert feats.SalePrice.dtype == np.float32
    np.testing.assert_array_equal(feats.saledate, pd.to_datetime(sales.saledate))
    np.testing.assert_array_equal(feats.saleDayofweek, pd.to_datetime(sales.saledate).dt.day_of_week)
    assert [*feats.ProductSize.cat.categories][0] == 'Large' and feats.ProductSize.cat.ordered

def test_own_numbers(sales):
    df = sales.head(6).assign(YearMade=[1000,1950,2000,2012,2009,1900], saledate=['3/1/2011 0:00']*6,
                              MachineHoursCurrentMeter=[0,np.nan,1,1000,np.e,-5.])
    feats = own_features(df)[0]
    nan = np.nan
    np.testing.assert_array_equal(feats.YearMade, [nan,1950,2000,2012,2009,1900])
    np.testing.assert_array_equal(feats.age, [nan,61,11,0,2,111])
    np.testing.assert_allclose(feats.logHours, [nan,nan,0,np.log(1000),1,nan])
    np.testing.assert_array_equal(feats.saleYear, [2011]*6)
    size = _class_range(df.fiProductClassDesc)
    np.testing.assert_allclose(np.expm1(feats[['ClassLow','ClassHigh']]), size)

@pytest.mark.parametrize('text, low, high', [
    ('Wheel Loader - 120.0 to 135.0 Horsepower', 120, 135),
    ('Backhoe Loader - 0.0 to 14.0 Ft Standard Digging Depth', 0, 14),
    ('Hydraulic Excavator, Track - 0.5 to 2.0 Metric Tons', .5, 2),
    ('Motorgrader - 200.0 + Horsepower', 200, np.nan),
    ('Skid Steer Loader - 2701.0+ Lb Operating Capacity', 2701, np.nan),
    ('Wheel Loader - Unidentified', np.nan, np.nan),
    ('Track Type Tractor, Dozer - Unidentified (Compact Construction)', np.nan, np.nan), (None, np.nan, np.nan)])
def test_class_range(text, low, high):
    for o in ([text], [text,'Wheel Loader - 1.0 to 2.0 Horsepower']):
        found = _class_range(pd.Series(o, index=[5,9][:len(o)]))
        assert [*found] == ['low','high'] and found.index[0] == 5
        np.testing.assert_array_equal(found.iloc[0], [low,high])

def test_no_own_column_knows_the_elapsed_time(sales):
    "Same weekday, same year: nothing tells which of two sales was the later one"
    early,late = (own_features(sales.assign(saledate=o)) for o in ('1/3/2011 0:00','12/19/2011 0:00'))
    feats,cats,conts = early
    pd.testing.assert_frame_equal(feats[cats+conts], late[0][cats+conts])
    assert book_features(sales.assign(saledate='1/3/2011 0:00'))[0].saleElapsed.nunique() == 1

def test_own_features_of_the_real_sales(data_path):
    df = load_bulldozers(data_path/'bulldozers-2012', verbose=False)
    feats,cats,conts = own_features(df)
    assert (len(cats),len(conts)) == (47,6) and len(feats) == 11_573
    assert feats.age.dropna().between(0, 100).all() and feats.YearMade.dropna().min() >= 1900
    ranged = ~df.fiProductClassDesc.str.contains('Unidentified')
    assert (feats.ClassLow.notna() == ranged).all()
    assert (feats.ClassHigh.isna() == (~ranged | df.fiProductClassDesc.str.contains('+', regex=False))).all()
    assert (feats.ClassHigh.dropna() > feats.ClassLow[feats.ClassHigh.notna()]).all()

# --- the table ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp('sales')/'a.csv', 1500, start='2010-06-01', end='2012-04-30')

@pytest.mark.slow
@pytest.mark.parametrize('columns', ['book', 'own'])
def test_columns_of_the_table(path, columns):
    table = bulldozers_dataset(path, 'book', columns)
    feats,cats,conts = FEATURES[columns](load_bulldozers(path, verbose=False))
    assert (table.name,table.split,table.columns,table.y_name) == ('synthetic-bulldozers','book',columns,'SalePrice')
    assert (table.cat_names,table.cont_names) == (cats,conts) and table.classes is None
    pd.testing.assert_frame_equal(table.df, feats)
    np.testing.assert_array_equal(table.times, feats.saledate)

def test_columns_make_another_fingerprint(path):
    assert bulldozers_dataset(path, 'book', 'book').fingerprint != bulldozers_dataset(path, 'book', 'own').fingerprint
    assert bulldozers_dataset(path, 'book').fingerprint == bulldozers_dataset(path, 'auto').fingerprint

def test_the_slice_of_2012_is_march(path):
    whole,part = (bulldozers_dataset(path, o) for o in ('2012','2012-slice'))
    assert (whole.split,part.split) == ('2012','2012-slice')
    date = part.times.dt
    assert set(date.month.iloc[part.test_idx]) == {3} and set(date.month.iloc[part.train_idx]) == {1,2}
    assert set(date.year.iloc[part.test_idx]) == {2012}
    np.testing.assert_array_equal(np.union1d(part.train_idx, part.test_idx), whole.train_idx)

@pytest.mark.parametrize('split', ['book', 'kaggle', 'auto'])
def test_the_slice_of_other_splits_is_the_latest(path, split):
    whole,part = (bulldozers_dataset(path, o) for o in (split, f'{split}-slice'))
    assert part.split == f"{'book' if split=='auto' else split}-slice"
    kept,held = part.times.iloc[part.train_idx],part.times.iloc[part.test_idx]
    assert kept.max() < held.min()
    n = round(.15*len(whole.train_idx))
    assert len(held) >= n > (held > held.min()).sum()
    np.testing.assert_array_equal(np.union1d(part.train_idx, part.test_idx), whole.train_idx)

@pytest.mark.parametrize('split', [*SPLITS, 'auto', 'book-slice', 'kaggle-slice', '2012-slice', 'auto-slice'])
def test_splits_that_there_are(split): check_split(split)

@pytest.mark.parametrize('split', ['2013', '', '-slice', 'slice', 'book-slice-slice', '2012-slic', 'book-search',
                                   'Book'])
def test_splits_that_there_are_not(split, tmp_path):
    for f in (check_split, lambda o: bulldozers_dataset(tmp_path/'nowhere', o)):
        with pytest.raises(ValueError, match=f"split='{split}' is unknown: choose one of 'book', .*'auto', 'book-slice'"): f(split)

def test_columns_that_there_are_not(tmp_path):
    with pytest.raises(ValueError, match="columns='x' is unknown: choose one of 'book', 'own'"):
        bulldozers_dataset(tmp_path/'nowhere', columns='x')

@pytest.fixture(scope='module')
def official():
    path = os.environ.get('DROPCONNECT_TAB_BULLDOZERS')
    if not path: pytest.skip("set DROPCONNECT_TAB_BULLDOZERS to the path of Kaggle's official TrainAndValid file")
    return path

@pytest.mark.parametrize('split, train, test', [('book', 404_710, 7_988), ('kaggle', 401_125, 11_573)])
def test_the_official_file(official, capsys, split, train, test):
    table = bulldozers_dataset(official, split)
    assert 'official file' in capsys.readouterr().out
    assert table.name == 'bulldozers' and len(table.df) == 412_698
    assert (len(table.train_idx),len(table.test_idx)) == (train,test)
    assert (len(table.cat_names),len(table.cont_names)) == (13,1)
