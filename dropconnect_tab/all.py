"What `from dropconnect_tab.all import *` brings: the three doors, and what they add to a `Learner`"
from dropconnect_tab.callback import DropConnectCallback
from dropconnect_tab.data import TabTensorDL, fast_dls
from dropconnect_tab.interpret import *
from dropconnect_tab.layers import DropConnectLinear, dropconnect
from dropconnect_tab.learner import dropconnect_config, dropconnect_learner, only_masks
from dropconnect_tab.masks import WeightMasks, draw_mask
from dropconnect_tab.members import MemberLoss
from dropconnect_tab.model import DropConnectTabularModel
from dropconnect_tab.predict import calibrate_spread, coverage, intervals

__all__ = ['dropconnect_learner', 'dropconnect_config', 'only_masks', 'DropConnectTabularModel', 'DropConnectCallback',
           'WeightMasks', 'draw_mask', 'DropConnectLinear', 'dropconnect', 'MemberLoss', 'TabTensorDL', 'fast_dls',
           'calibrate_spread', 'coverage', 'intervals', 'plot_coverage', 'plot_error_spread', 'plot_reliability']
