"""One file per algorithm; each is a LightningModule."""

from lit_offrl.algorithms.awac import AWAC
from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.algorithms.bc import BC
from lit_offrl.algorithms.bcq import BCQ
from lit_offrl.algorithms.cal_ql import CalQL
from lit_offrl.algorithms.cql import CQL
from lit_offrl.algorithms.discrete_bcq import DiscreteBCQ
from lit_offrl.algorithms.discrete_cal_ql import DiscreteCalQL
from lit_offrl.algorithms.discrete_cql import DiscreteCQL
from lit_offrl.algorithms.discrete_iql import DiscreteIQL
from lit_offrl.algorithms.dqn import DQN
from lit_offrl.algorithms.iql import IQL
from lit_offrl.algorithms.rebrac import ReBRAC
from lit_offrl.algorithms.rlpd import RLPD
from lit_offrl.algorithms.td3_bc import TD3BC

__all__ = [
    "AWAC",
    "BC",
    "BCQ",
    "CQL",
    "DQN",
    "IQL",
    "RLPD",
    "TD3BC",
    "CalQL",
    "DiscreteBCQ",
    "DiscreteCQL",
    "DiscreteCalQL",
    "DiscreteIQL",
    "OfflineAlgorithm",
    "ReBRAC",
]
