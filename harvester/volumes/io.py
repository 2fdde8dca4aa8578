"""Readers of scans: each gives a Volume in the one stored order (orientation.py)."""

from harvester.volumes.io_dicom import read_dicom_series
from harvester.volumes.io_nifti import read_nifti

__all__ = ["read_dicom_series", "read_nifti"]
