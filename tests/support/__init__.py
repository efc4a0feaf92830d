"""What several tests share: the fixture models, and real bundles made of them."""
