"""The trace and the op for FastEstimator."""
