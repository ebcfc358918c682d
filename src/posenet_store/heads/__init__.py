"""What is a head, how is it trained and scored, given arrays? Numerics without files."""
