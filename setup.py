"Hands the metadata of settings.ini to setuptools; the version is read from the package, where nbdev bumps it."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
cfg = ConfigParser(delimiters=['='])
cfg.read(here/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
version = re.search(r'__version__ = "(.+)"', (here/'dropconnect_tab/__init__.py').read_text(encoding='utf-8')).group(1)

setup(
    version=version,
    description=cfg['description'],
    keywords=cfg['keywords'].split(),
    author=cfg['author'],
    license=cfg['license'],
    project_urls={'Documentation': cfg['site'], 'Repository': cfg['repository'], 'Issues': cfg['repository']+'/issues'},
    classifiers=cfg['classifiers'].strip().splitlines(),
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require={extra: cfg[f'{extra}_requirements'].split()
                    for extra in ('dev', 'onnx', 'tune', 'parquet', 'dask', 'autogluon', 'bench', 'keel')},
    packages=find_packages(include=['dropconnect_tab', 'dropconnect_tab.*']),
    package_data={'dropconnect_tab': ['py.typed']},  # type checkers may read the annotations
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': ['dropconnect_tab=dropconnect_tab._modidx:d']},
)
