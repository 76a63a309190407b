"""Data: sources, decoded image sets, splits and query/gallery protocols."""

from hetero.data.imageset import ImageSet
from hetero.data.load import NAMES, load
from hetero.data.protocols import QueryGallery, protocol
from hetero.data.sources import open_source
from hetero.data.splits import Splits

__all__ = ["NAMES", "ImageSet", "QueryGallery", "Splits", "load", "open_source", "protocol"]
