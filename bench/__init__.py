"""Tools for measuring: model files with random weights. Not in the package."""
