"""What inference engineers walk in for: measuring, improving, planning, and the notebook that keeps the figures."""
