"""Writes the folder of an entry in TabArena: the model, its search space of 200 settings, and what is known of both.

    python benchmarks/tabarena_entry.py packages/tabarena/src/tabarena/models --date 2026-12-01

FOLDER is that of the models in a checkout of TabArena. Its contributors' guide (.claude/skills/add-model) asks for three
more edits, which are printed. TabArena imports every entry, also without the package that it is for, so `model.py` has a
copy of `DropConnectModel`, whose `_fit` imports this package.
"""
import argparse
import inspect
import re
from pathlib import Path

from dropconnect_tab.autogluon import DropConnectModel

REPOSITORY = 'https://github.com/dropconnect-tab/dropconnect_tab'
FILES = {
    '__init__.py': '''
from tabarena.models.dropconnect.hpo import gen_dropconnect
from tabarena.models.dropconnect.info import dropconnect_info, dropconnect_method_metadata

__all__ = ["dropconnect_info", "dropconnect_method_metadata", "gen_dropconnect"]
''',
    'model.py': '''
from time import monotonic
from typing import ClassVar

from autogluon.tabular.models.abstract.abstract_torch_model import AbstractTorchModel


{model}''',
    'hpo.py': '''
from tabarena.models.dropconnect.model import DropConnectModel
from tabarena.utils.config_utils import CustomAGConfigGenerator


def generate_configs_dropconnect(num_random_configs=200):
    from dropconnect_tab.autogluon import random_settings

    return random_settings(num_random_configs)


gen_dropconnect = CustomAGConfigGenerator(
    model_cls=DropConnectModel,
    search_space_func=generate_configs_dropconnect,
    manual_configs=[{{}}],
)
''',
    'info.py': '''
from tabarena.models._method_metadata import MethodMetadata
from tabarena.models._model_info import ModelInfo
from tabarena.models.dropconnect.hpo import gen_dropconnect
from tabarena.models.dropconnect.model import DropConnectModel

dropconnect_method_metadata = MethodMetadata.config(
    method="DropConnect",
    display_name="DropConnect",
    compute="cpu",
    date="{date}",
    ag_key="TA-DROPCONNECT",
    model_key="DROPCONNECT",
    config_default="DropConnect_c1_default_BAG_L1",
    can_hpo=True,
    is_bag=True,
    suite="tabarena-{date}",
    reference_url="{repository}",
)

dropconnect_info = ModelInfo(
    model_cls=DropConnectModel,
    search_space=gen_dropconnect,
    method_metadata=dropconnect_method_metadata,
    pip_extra=("dropconnect_tab",),
)
''',
}
DOC = f'''"""Ensembles of tabular nets that are trained in one pass, and whose hidden neurons start from a few columns each.

    Codebase: {REPOSITORY}
    License: Apache-2.0
    """
'''
EDITS = '''In packages/tabarena/pyproject.toml:  dropconnect = ["dropconnect_tab"], and "tabarena[dropconnect]" in `extended`
In models/__init__.py:  "DropConnectModel": "tabarena.models.dropconnect.model" in _LAZY_CLASSES, and under TYPE_CHECKING
In get_model_family:  DROPCONNECT among the neural networks'''


def model():
    "The source of the class, as TabArena's guide wants it"
    code = inspect.getsource(DropConnectModel)
    code = re.sub(r'"[^"\n]+"\n', lambda m: DOC, code, count=1)
    code = code.replace("'DROPCONNECT','DropConnect'", "'TA-DROPCONNECT','TA-DropConnect'")
    warm = "    warmup_modules: ClassVar = 'dropconnect_tab.averaging','dropconnect_tab.sklearn'\n"
    return code.replace('\n    def _fit', f'{warm}\n    def _fit', 1)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folder', type=Path)
    p.add_argument('--date', required=True, help="of the run of the benchmark, as 2026-12-01")
    args = p.parse_args()
    to = args.folder/'dropconnect'
    to.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        text = 'from __future__ import annotations\n' + text.format(model=model(), date=args.date, repository=REPOSITORY)
        (to/name).write_text(text, encoding='utf-8')
    print(EDITS)


if __name__ == '__main__': main()
