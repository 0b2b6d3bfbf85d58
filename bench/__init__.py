"""Tools for measuring: model files with random weights, a comparison with llama.cpp. Not in the package."""
