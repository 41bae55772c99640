"""Measurements beside other DICOM stacks: ``python -m benchmarks``, or ``make bench``."""
