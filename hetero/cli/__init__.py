"""The command line: each verb parses, calls the library, and reports. Nothing is computed here."""

from hetero.cli.main import main

__all__ = ["main"]
