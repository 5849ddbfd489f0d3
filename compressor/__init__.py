"""One plan takes a trained model to a smaller, faster one that is proved to be so on the hardware it is meant for."""
