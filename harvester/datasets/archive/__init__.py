"""Folders of scans as they are: DICOM trees and NIfTI files, with their marks."""
