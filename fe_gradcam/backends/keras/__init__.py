"""How a Keras model is observed."""
