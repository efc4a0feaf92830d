"""Diamonds: 53,940 cut stones with their prices of 2017 in dollars, ten columns, none missing."""

from training.data.dataset import Dataset
from training.data.penguins import data_file
from training.data.table import TableSource, collect_table

PACKAGE = "plotnine"
FILE = "diamonds.csv"
TARGET = "price"


def collect_diamonds() -> Dataset:
    """Inputs `numbers` float32 [rows, 6] and `categories` str [rows, 3]; the price as float32.

    Nothing is done here that is not done to a user's own table.

    Raises:
        EnvironmentTrouble: the package with the data is not installed.
    """
    return collect_table(TableSource(data_file(PACKAGE, FILE), (TARGET,))).dataset
