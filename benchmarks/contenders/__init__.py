"""What is compared: the same project and messages, tracked in different ways or not at all."""
