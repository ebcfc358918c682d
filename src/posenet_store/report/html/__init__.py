"""The self-contained page of one or more runs."""
