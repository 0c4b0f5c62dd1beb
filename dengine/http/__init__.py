"""What is served over HTTP beside the hot path: health and metrics."""
