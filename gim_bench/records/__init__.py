"""Records: files of finished and failed cells, and statistics over their metrics."""
