"""Models: loading by name, folder or hub id, attention inside each sequence, the fused head, LoRA, and export."""
