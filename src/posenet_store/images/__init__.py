"""What goes in? Image sets: how they are found, decoded, generated and transformed."""
