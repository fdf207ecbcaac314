"""Holdfast: a key-value service that can be asked for either side of the CAP trade."""

__version__ = "0.1.0"
