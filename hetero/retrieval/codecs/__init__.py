"""Compressed galleries: a float32 query against decoded gallery vectors, scored like any other gallery.

Codecs see gallery or training vectors, never queries. A decoded vector is of unit length, so the similarity
stays the inner product of unit vectors, and whatever one factor a vector was scaled by need not be stored.
"""

from hetero.retrieval.codecs.codec import Codec, check_name, codec
from hetero.retrieval.codecs.gallery import Compressed, compress, decoded, load_gallery

__all__ = ["Codec", "Compressed", "check_name", "codec", "compress", "decoded", "load_gallery"]
