"""A small DICOM node: an archive and a worklist in folders, for tests and laboratories, and a model to copy from."""
