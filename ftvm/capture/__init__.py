"""Guest to Checkpoint: dirty pages, the shadow, fused and staged capture, the event log. Pure but for the buffers it
fills."""
