"What `from dropconnect_tab.all import *` brings: the three doors, and what they add to a `Learner`"
from dropconnect_tab.callback import DropConnectCallback
from dropconnect_tab.interpret import *
from dropconnect_tab.learner import dropconnect_config, dropconnect_learner
from dropconnect_tab.masks import WeightMasks, draw_mask
from dropconnect_tab.model import DropConnectTabularModel

__all__ = ['dropconnect_learner', 'dropconnect_config', 'DropConnectTabularModel', 'DropConnectCallback', 'WeightMasks', 'draw_mask']
