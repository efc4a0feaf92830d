"""From the graph's inputs to what a network takes."""
