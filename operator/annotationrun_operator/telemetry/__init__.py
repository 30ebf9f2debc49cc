"""What the operator tells of itself: metrics and health."""
