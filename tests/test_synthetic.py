"What is not on the page of the synthetic sales: their form, their prices, and the files they are written to"
import os, random, zipfile

import numpy as np, pandas as pd, pytest, torch

from dropconnect_tab.bench.bulldozers import COLUMNS, SPLITS, book_features, load_bulldozers, split_bulldozers
from dropconnect_tab.bench.synthetic import synthetic_sales, write_synthetic

pytestmark = pytest.mark.slow

def test_one_seed_one_table():
    py,npy,pt = random.getstate(),np.random.get_state(),torch.get_rng_state()
    a,b,c = synthetic_sales(300, seed=3),synthetic_sales(300, seed=3),synthetic_sales(300, seed=4)
    pd.testing.assert_frame_equal(a, b)
    assert not a.equals(c)
    assert random.getstate() == py and torch.equal(torch.get_rng_state(), pt)
    assert np.random.get_state()[2] == npy[2] and (np.random.get_state()[1] == npy[1]).all()

@pytest.mark.parametrize('n', [1, 2, 30])
def test_few_sales(tmp_path, n):
    df = load_bulldozers(write_synthetic(tmp_path/'few.csv', n), verbose=False)
    assert df.shape == (n,53)
    assert book_features(df)[0].SalePrice.between(8, 12).all()

def test_synthetic_schema():
    df = synthetic_sales(6000)
    assert [*df] == COLUMNS
    assert df.SalesID.is_unique and df.datasource.eq(0).all()
    assert df.saledate.str.fullmatch(r'\d{1,2}/\d{1,2}/\d{4} 0:00').all()
    assert pd.to_datetime(df.saledate).between('2008-01-01', '2011-12-31').all()
    assert .07 < df.YearMade.eq(1000).mean() < .14
    assert (df.YearMade <= pd.to_datetime(df.saledate).dt.year).all()
    assert .5 < df.MachineHoursCurrentMeter.isna().mean() < .8 and df.MachineHoursCurrentMeter.eq(0).any()
    assert df.SalePrice.between(4750, 142_000).all() and df.SalePrice.nunique() > 200
    assert .5 < np.log(df.SalePrice).std() < .9
    assert df.ProductGroup.nunique() == 6 and df.groupby('ProductGroup').ProductGroupDesc.nunique().eq(1).all()

@pytest.mark.parametrize('col, groups', [
    ('Blade_Width','MG'), ('Coupler_System','SSL'), ('Hydraulics_Flow','SSL'), ('Tire_Size','MG WL'),
    ('Track_Type','TEX'), ('Blade_Type','TTT'), ('Pad_Type','BL'), ('Drive_System','BL MG'),
    ('Steering_Controls','WL'), ('ProductSize','TEX TTT WL')])
def test_parts_of_the_groups(col, groups):
    df = synthetic_sales(3000)
    filled = df[col].notna().groupby(df.ProductGroup).mean()
    assert set(filled[filled>0].index) == set(groups.split())
    if col != 'ProductSize': assert filled[filled>0].between(.9, 1).all()

def test_model_columns_agree():
    df = synthetic_sales(3000)
    names = ['fiBaseModel','fiSecondaryDesc','fiModelSeries','fiModelDescriptor']
    assert (df[names].astype(object).fillna('').sum(axis=1) == df.fiModelDesc).all()
    for col in (*names, 'fiModelDesc', 'ProductGroup', 'ProductSize', 'fiProductClassDesc'):
        assert df.groupby('ModelID')[col].nunique(dropna=False).eq(1).all()
    assert df.groupby('fiBaseModel').fiProductClassDesc.nunique().eq(1).all()

def test_prices_follow_the_machine():
    df = synthetic_sales(12_000)
    y = np.log(df.SalePrice)
    age = pd.to_datetime(df.saledate).dt.year - df.YearMade
    resid = y - y.groupby(df.ModelID).transform('mean')
    in_class = y - y.groupby(df.fiProductClassDesc).transform('mean')
    assert in_class[age.between(15, 30)].mean() < in_class[age<5].mean() - .2
    assert .2 < resid.std() < .45  # the noise is 0.2: a model says a lot, but not all
    assert resid[df.Enclosure.eq('EROPS w AC')].mean() > resid[df.Enclosure.eq('OROPS')].mean() + .05
    both = df.Hydraulics_Flow.eq('High Flow') & df.Coupler_System.eq('Yes')
    flow = df.Hydraulics_Flow.eq('High Flow') & ~df.Coupler_System.eq('Yes')
    assert resid[both].mean() > resid[flow].mean() + .05

@pytest.mark.parametrize('kwargs, value', [(dict(n=0), 'n=0'), (dict(n=-3), 'n=-3'), (dict(n=1.5), 'n=1.5'),
                                           (dict(start='2012-01-01'), "start='2012-01-01'")])
def test_synthetic_errors(kwargs, value):
    with pytest.raises(ValueError, match=value): synthetic_sales(**kwargs)

def test_write_needs_a_known_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"'\.parquet'.*'\.zip' or '\.csv'"): write_synthetic(tmp_path/'a.parquet', 10)
    assert not [*tmp_path.iterdir()]

@pytest.mark.parametrize('name', ['TrainAndValid.zip', 'a.csv', 'new/folder/a.ZIP'])
def test_write_and_load(tmp_path, name):
    path = write_synthetic(tmp_path/name, 500, seed=2, start='2012-01-01', end='2012-04-30')
    assert path == tmp_path/name and [o.name for o in path.parent.iterdir()] == [path.name]
    made = synthetic_sales(500, seed=2, start='2012-01-01', end='2012-04-30')
    dates = pd.to_datetime(made.saledate).astype('datetime64[ns]')
    made = made.assign(saledate=dates, SalePrice=made.SalePrice.astype(float))
    pd.testing.assert_frame_equal(load_bulldozers(path, verbose=False), made)

def test_written_like_kaggle(tmp_path):
    path = write_synthetic(tmp_path/'TrainAndValid.zip', 50)
    with zipfile.ZipFile(path) as z:
        assert z.namelist() == ['TrainAndValid.csv']
        raw = z.read('TrainAndValid.csv')
    assert raw.count(b'\r\n') == raw.count(b'\n') == 51 and raw.endswith(b'\r\n')
    assert b'.0,,' not in raw  # whole hours, as in the file
    assert path.read_bytes() == write_synthetic(tmp_path/'again'/'TrainAndValid.zip', 50).read_bytes()

def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_synthetic(tmp_path/'a.csv', 20)
    before = path.read_bytes()
    def fail(*args): raise OSError("disk full")
    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OSError, match='disk full'): write_synthetic(path, 30)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]

def test_full_size(tmp_path):
    path = write_synthetic(tmp_path/'full.csv', 412_698, start='1989-01-17', end='2012-04-30')
    df = load_bulldozers(path, verbose=False)
    assert df.shape == (412_698,53)
    feats,cats,conts = book_features(df)
    assert (len(cats),len(conts)) == (13,1) and len(feats) == 412_698
    assert 4500 < feats.ModelID.nunique() < 6000 and 4500 < feats.fiModelDesc.nunique() < 6000
    for split in SPLITS: assert all(len(o) > 1000 for o in split_bulldozers(df, split)[1:])

def test_synthetic_types_are_those_of_the_file(data_path):
    real = load_bulldozers(data_path/'bulldozers-2012', verbose=False).dtypes.astype(str)
    made = synthetic_sales(6000).dtypes.astype(str)
    differ = {c for c in COLUMNS if real[c] != made[c]}
    # loading converts the first two; some auctioneers are unknown, but none in 2012
    assert differ - {'auctioneerID'} == {'saledate','SalePrice'}
