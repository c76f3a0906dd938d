"""What measuring costs, and where."""
