"""The messenger at a terminal: a model that speaks to the client, and screens that see only the model."""
