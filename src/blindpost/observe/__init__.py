"""What is made of a router's metrics: figures between two readings, and the panels that show them."""
