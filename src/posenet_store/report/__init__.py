"""What a person looks at: Table 2 with published numbers beside ours, the figures, the page."""
