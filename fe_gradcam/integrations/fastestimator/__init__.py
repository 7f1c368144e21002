"""The trace and the op for FastEstimator, which is put in order before it is imported."""

from fe_gradcam.integrations.fastestimator import legacy

legacy.apply()
