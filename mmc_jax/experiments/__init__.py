"""The paper's experiments: what they measure, and pages that show it."""
