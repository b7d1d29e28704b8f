"""Config to objects to train or evaluate: the one room that sees every layer."""
