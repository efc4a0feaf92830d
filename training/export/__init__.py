"""From a trained model to a proved graph, its variants, and the bundle."""
