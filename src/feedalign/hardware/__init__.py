"""Devices that project: what feedalign asks of one, adapters for some, and how one is measured and watched."""

from feedalign.hardware.calibrate import Calibration, calibrate, fingerprint
from feedalign.hardware.lighton import lighton
from feedalign.hardware.projector import Function, Projector
from feedalign.hardware.remote import Remote

__all__ = ["Calibration", "Function", "Projector", "Remote", "calibrate", "fingerprint", "lighton"]
