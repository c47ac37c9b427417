"What `nbdev-test` does first: see `test_setup` in pyproject.toml"
import os


def one_thread(cells):
    "One thread in each process that runs notebooks, of which there are as many as cores; torch reads this as it loads"
    os.environ.setdefault('OMP_NUM_THREADS', '1')
