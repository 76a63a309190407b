"""hetero: compact students that search a large model's gallery."""

__version__ = "0.1.0"
