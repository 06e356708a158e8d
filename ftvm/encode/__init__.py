"""Checkpoint to bytes and back: page deltas, digests, frames, messages, limits. Pure."""
