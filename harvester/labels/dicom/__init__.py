"""Marks from DICOM SR, SEG and RTSTRUCT."""
