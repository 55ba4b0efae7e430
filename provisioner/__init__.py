"""The decision: who becomes a device, when, and with what."""

__version__ = "0.1.0"
