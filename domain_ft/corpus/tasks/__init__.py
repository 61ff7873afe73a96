"""Classification tasks: labelled examples from files, recipes and hubs; their splits, leaks, and rows of tokens."""
