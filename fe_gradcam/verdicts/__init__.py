"""Whether the network recognises a class by the right thing."""
