"""Data sets as flat transitions, and the DataModule that feeds them to an algorithm."""

from lit_offrl.data.datamodule import OfflineDataModule
from lit_offrl.data.loading import load_dataset
from lit_offrl.data.spec import DatasetSpec
from lit_offrl.data.transitions import Transitions

__all__ = ["DatasetSpec", "OfflineDataModule", "Transitions", "load_dataset"]
