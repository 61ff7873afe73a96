"""The ops on a GPU, in Triton. Imported only where the backend `triton` runs, since triton is not everywhere."""
