"""The ops on a GPU, in Triton. Imported only when the backend `triton` runs, since triton may not be installed."""
