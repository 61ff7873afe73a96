"""Reports: the files that a run writes for users and programs."""
