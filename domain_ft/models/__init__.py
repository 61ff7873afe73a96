"""Models: loading by name, folder or hub id; packed attention; LoRA; generation; export."""
