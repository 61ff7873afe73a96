"""The ops of domain-ft's hot path: fused LoRA linear and fused (linear) cross-entropy."""
