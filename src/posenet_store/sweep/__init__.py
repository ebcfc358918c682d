"""How does a row become a result? Which heads share a pass, how they are fitted and scored."""
