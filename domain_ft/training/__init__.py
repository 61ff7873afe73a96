"""The training loop, with its optimiser, schedule, checkpoints, memory plan and progress."""
