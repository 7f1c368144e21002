"""The trace and the op for FastEstimator; FastEstimator is repaired before it is imported."""

from fe_gradcam.integrations.fastestimator import legacy

legacy.apply()
