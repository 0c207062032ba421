"""One cell's life: from its settings to its record."""
