#!/usr/bin/env bash
# The test suite with the oldest versions that are claimed: fastai 2.8 on fastcore 1, pandas 2, scikit-learn 1.6, joblib 1.4.
# Needs some gigabytes and minutes: that fastai wants a torch of its time. `tests/oldest.sh FOLDER` keeps the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
env=${1:-$(mktemp -d)}
[ $# -gt 0 ] || trap 'rm -rf "$env"' EXIT
unset PIP_CONSTRAINT
python3 -m venv "$env"
source "$env/bin/activate"
pip install -q 'fastai==2.8.1' 'fastcore<2' 'pandas<3' 'scikit-learn<1.7' 'joblib<1.5' 'rtdl_num_embeddings==0.0.12' \
    accelerate hypothesis 'pytest<9.2' pytest-xdist -e .
python -W ignore -c "
import fastai, fastcore, pandas, sklearn, torch
for o in (fastai, fastcore, pandas, sklearn, torch): print(o.__name__, o.__version__)"
python -m pytest
