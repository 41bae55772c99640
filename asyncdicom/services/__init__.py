"""The service classes of PS3.4 that need more than a DIMSE call, one module each."""
