"""Models: loading by name, folder or hub id, attention inside each piece, the fused head, LoRA, and export."""
