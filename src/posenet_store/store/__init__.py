"""What is on disk? The plan, records and files of a store: written, read, verified, converted."""
