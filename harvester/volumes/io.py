"""Readers of scans: each gives a Volume in the one stored order (orientation.py)."""

from harvester.volumes.io_dicom import read_dicom_series
from harvester.volumes.io_nifti import read_nifti
from harvester.volumes.io_png import read_png_slices

__all__ = ["read_dicom_series", "read_nifti", "read_png_slices"]
