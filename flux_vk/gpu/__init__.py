"""Devices, buffers, kernel contracts, chains. Knows nothing of models or tokens."""
