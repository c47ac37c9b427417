#!/usr/bin/env bash
# Everything under results/, from the sales of 2012: about an hour on two CPU cores. Runs that are there are not
# repeated, so a stopped script goes on where it was.
#
#     pip install -e '.[bench]'
#     benchmarks/bulldozers_2012.sh FOLDER    # with the competition's TrainAndValid.zip
set -euo pipefail
data=${1:?give the folder with TrainAndValid.zip}
out=$(cd "$(dirname "$0")/.." && pwd)/results
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive
on() { dropconnect-bulldozers --path "$data" "$@"; }
same=(epochs=10 lr=0.01 'layers=(500,250)')

# The test on April, with settings chosen on March
on --split 2012 --columns own --methods all --search 12 --seeds 5 --out "$out"

# How much to drop: on March, one setting for all
on --split 2012-slice --columns own --seeds 5 --out "$out/weight_p" --set "${same[@]}" wd=0.1 --methods dense \
    trainable,weight_p=0.{5,8,9,95,98} frozen,weight_p=0.{5,8,9,95,98} resampled,weight_p=0.{05,1,2,5}

# The weight_p that was best on March for each mask, tested on April with the same setting for all
on --split 2012 --columns own --seeds 5 --out "$out/same-settings" --set "${same[@]}" wd=0.1 \
    --methods dense trainable,weight_p=0.98 frozen,weight_p=0.9 resampled,weight_p=0.2

# What grows back, with and without L1 and L2 (weight decay): on March
on --split 2012-slice --columns own --seeds 5 --out "$out/regrowth" --set "${same[@]}" weight_p=0.9 \
    --methods trainable,wd=0 trainable,wd=0.1 trainable,wd=1.0 trainable,wd=0,l1=1e-05 trainable,wd=0,l1=0.0001

# Which columns: on March
for columns in book own; do
    on --split 2012-slice --columns $columns --seeds 5 --out "$out/columns-$columns" --set "${same[@]}" wd=0.1 \
        --methods dense trainable,weight_p=0.9 rf xgb
done

# fastai's loader, which draws rows with replacement, and ours: on April
on --split 2012 --columns own --seeds 5 --out "$out/loader" --set "${same[@]}" wd=0.1 --methods dense dense,loader=tensors
