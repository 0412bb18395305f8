"""Image in, logits out."""
