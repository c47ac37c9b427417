"What `from dropconnect_tab.all import *` brings: the entry points, what they add to a `Learner`, what errors name"
from dropconnect_tab.averaging import AverageWeights, TimeLimit
from dropconnect_tab.callback import DropConnectCallback
from dropconnect_tab.data import TabTensorDL, fast_dls
from dropconnect_tab.embeddings import get_cont_edges, get_cont_scale
from dropconnect_tab.exported import load_predictor
from dropconnect_tab.frame import FillGaps
from dropconnect_tab.interpret import plot_coverage, plot_error_spread, plot_importance, plot_reliability
from dropconnect_tab.layers import DropConnectLinear, dropconnect
from dropconnect_tab.learner import dropconnect_config, dropconnect_learner, only_masks
from dropconnect_tab.masks import WeightMasks, draw_mask
from dropconnect_tab.members import AverageMembers, MemberLoss
from dropconnect_tab.merge import merge_members
from dropconnect_tab.model import DropConnectTabularModel
from dropconnect_tab.oob import ValidateOutOfBag, best_temperature
from dropconnect_tab.optimizer import FusedAdam, Muon
from dropconnect_tab.predict import calibrate_spread, interval_coverage, pred_intervals
from dropconnect_tab.serve import Predictor

__all__ = [  # for type checkers, which take imported names for private
    'AverageMembers', 'AverageWeights', 'best_temperature', 'calibrate_spread', 'draw_mask', 'dropconnect',
    'dropconnect_config', 'dropconnect_learner', 'DropConnectCallback', 'DropConnectLinear',
    'DropConnectTabularModel', 'fast_dls', 'FillGaps', 'FusedAdam', 'get_cont_edges', 'get_cont_scale',
    'interval_coverage', 'load_predictor', 'MemberLoss', 'merge_members', 'Muon', 'only_masks', 'plot_coverage',
    'plot_error_spread', 'plot_importance', 'plot_reliability', 'pred_intervals', 'Predictor', 'TabTensorDL',
    'TimeLimit', 'ValidateOutOfBag', 'WeightMasks']
